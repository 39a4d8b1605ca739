"""Compiled loops of n-gram counting, scoring and sampling."""
