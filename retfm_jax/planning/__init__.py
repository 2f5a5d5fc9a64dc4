"""What a training step needs on devices that need not be here."""
