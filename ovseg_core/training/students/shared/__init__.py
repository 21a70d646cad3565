"""What students share: backbones, views, the file of a trained student."""
