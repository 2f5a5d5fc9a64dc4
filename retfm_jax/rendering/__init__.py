"""Users' text and numbers as figures and HTML."""
