"""The demo: drawn scenes, annotated and evaluated in one go."""
