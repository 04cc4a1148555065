"""The auto-encoder: its layers, its networks, and trained models."""
