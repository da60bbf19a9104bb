"""Wrong arguments for the public functions, and what may come of them."""
