"""Compiled operations of neural layers."""
