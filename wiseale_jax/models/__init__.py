"""The auto-encoder: its layers, its networks, and a trained one."""
