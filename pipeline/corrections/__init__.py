"""Corrections of a run: decisions, corrected masks, and scores calibrated with them."""
