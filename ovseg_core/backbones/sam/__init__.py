"""SAM: its image encoder alone, by timm, and the promptable networks, by transformers."""
