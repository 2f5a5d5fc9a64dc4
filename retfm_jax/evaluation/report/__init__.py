"""What an evaluation found, as JSON, pictures and one HTML page."""
