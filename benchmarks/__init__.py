"""Benchmarks: one file a question, each printing ours beside a peer's in one run; see README.md."""
