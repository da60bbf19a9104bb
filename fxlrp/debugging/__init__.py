"""Tools that find where an explanation, or its compilation, goes wrong."""
