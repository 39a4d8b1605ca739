"""Compiled loops over bytes of text."""
