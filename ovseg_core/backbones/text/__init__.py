"""Phrases become text embeddings: tokenizers and the text matrix."""
