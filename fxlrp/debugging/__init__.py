"""What helps to find where an explanation, or its compilation, goes wrong."""
