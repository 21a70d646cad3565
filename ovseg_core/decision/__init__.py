"""From score maps to label maps, segments and their scores."""
