"""Training a segmenter's head as a job of its own: `ovseg train-heads`."""
