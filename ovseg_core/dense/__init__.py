"""What the sliding-window methods share: windows, dense CLIP features and their scores."""
