"""Training: a `Recipe` and batches in, a trained state out."""
