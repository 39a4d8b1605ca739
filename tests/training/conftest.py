"""Fixtures of this folder."""

from tests.training.runs import two_cores

__all__ = ["two_cores"]
