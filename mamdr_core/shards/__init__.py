"""Reads one pinned Delta version of the examples into columns in memory.

Start with `pinned.py` (the version) and `loading.py` (the rows of a rank).
"""
