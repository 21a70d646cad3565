"""What the sliding-window methods share: CLIP's patches, their attention, windows and scores."""
