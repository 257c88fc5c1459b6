"""Data sets: synthetic logs with a known answer, and converters for public sources."""
