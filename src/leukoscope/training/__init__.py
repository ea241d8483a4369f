"""Training: from packed crops and a split to checkpoints and predictions of every fold."""
