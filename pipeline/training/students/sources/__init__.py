"""Where the images and labels of a training come from: a run, or a public data set."""
