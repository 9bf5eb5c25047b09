"""Training of the scorer and of the learned trigger on collected records."""
