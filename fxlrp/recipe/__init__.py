"""Recipes: how an explainer was made, as a file without code, and the explainer made again from it."""
