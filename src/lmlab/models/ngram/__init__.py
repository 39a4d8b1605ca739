"""Counted models: n-grams of any order, with the classic smoothings."""

from lmlab.models.ngram.model import Ngram

__all__ = ["Ngram"]
