"""Models that adapt to the text they read."""
