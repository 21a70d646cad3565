"""Files of weights, read with limits and without running anything that stands in them."""
