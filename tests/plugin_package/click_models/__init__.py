"""A structure and a learning method of a team of its own (docs/extending.md)."""
