"""Photographs that several sets hold: found, compared, shown, and listed to be left out."""
