"""The published ways to enlarge and reduce, on any device, exact to the pixel."""
