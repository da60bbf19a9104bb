"""Random models, and what must hold of the explanation of any of them."""
