"""What can be trained: heads of frozen networks, and students."""
