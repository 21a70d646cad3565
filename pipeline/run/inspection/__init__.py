"""A run folder looked at as a whole: counted by `ovseg inspect`, verified by `ovseg check`."""
