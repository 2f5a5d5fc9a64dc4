"""Objectives as pure functions of arrays, each beside its equation and source."""
