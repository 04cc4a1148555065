"""Training, which takes a `Recipe` and batches to a trained state."""
