"""What sharpens a score map after the windows and before the decision, one file each."""
