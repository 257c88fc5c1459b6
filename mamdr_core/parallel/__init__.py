"""Ranks: collectives, placement of domains on ranks, exchange of rows, and launching ranks in Spark.

Start with `collective.py` (what ranks exchange) and `launch.py` (how they start).
"""
