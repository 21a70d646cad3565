"""What the trainable heads share."""
