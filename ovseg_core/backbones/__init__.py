"""The frozen networks and how they are loaded."""
