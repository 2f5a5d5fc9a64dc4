"""Towers: one file an architecture, with its table of published names."""
