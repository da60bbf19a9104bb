"""The annotated graph as a table and the generated program as code."""
