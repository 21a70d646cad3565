"""What proposers share, and the methods with proposals."""
