"""The review server: a page to go through a run's masks, and one to try words on an image."""
