"""Spark and Delta: from raw logs to sharded examples. Pure functions from DataFrame to DataFrame, and table I/O."""
