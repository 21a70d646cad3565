"""What is typed at a prompt; thin."""
