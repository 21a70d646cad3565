"""What the methods share that go from text to instances."""
