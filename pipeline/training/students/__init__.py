"""Training a student as a job of its own: `ovseg train-student`."""
