"""Predictions of a run: batch scores and the best items of each user in Spark, and exported files.

Start with `scoring.py` and `exporting.py`, the two jobs, and `scorer.py`, which predicts.
"""
