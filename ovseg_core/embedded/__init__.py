"""The tiny models that come with the package, and the drawn world they know."""
