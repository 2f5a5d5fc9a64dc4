"""From releases and tables of users to batches."""
