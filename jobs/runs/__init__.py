"""What is done with a run folder: look, export, evaluate, draw a sheet, delete."""
