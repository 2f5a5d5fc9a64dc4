"""Weights of other projects, read without running them, and networks written for them."""
