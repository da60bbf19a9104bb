"""Recipes: the arguments of a compilation as a file without code, from which an explainer can be rebuilt."""
