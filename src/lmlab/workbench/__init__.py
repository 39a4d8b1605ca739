"""The facade: the one place that knows a model and its codec together, and speaks text."""
