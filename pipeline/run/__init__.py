"""The run folder: what is written, what is committed, what is read."""
