"""The facade: the one place that knows a model and its tokenizer together, and speaks text."""
