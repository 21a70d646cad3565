"""One job over many workers."""
