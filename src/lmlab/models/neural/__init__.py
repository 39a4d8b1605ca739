"""Models trained by gradient."""
