"""Reads one pinned Delta version of the examples into columns in memory."""
