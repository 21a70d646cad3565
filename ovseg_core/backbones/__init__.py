"""Frozen networks (CLIP, vision transformers, SAM, UNets), their heads, and how they are loaded."""
