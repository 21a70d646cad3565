"""What the kinds of archives share."""
