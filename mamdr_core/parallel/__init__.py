"""Ranks: what they say to each other, which domains they own, and how Spark launches them."""
