"""What the importers share."""
