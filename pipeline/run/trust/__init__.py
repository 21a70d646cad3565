"""What of a run folder that somebody else may have made this machine takes at its word."""
