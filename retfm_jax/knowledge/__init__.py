"""What an ophthalmologist knows: conditions, sides, reports, and prompts."""
