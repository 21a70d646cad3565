"""What people said of a run: decisions, corrected masks, and what is learned from them."""
