"""What a built dataset holds and how it looks."""
