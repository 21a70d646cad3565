"""Commands that choose among the images of a run."""
