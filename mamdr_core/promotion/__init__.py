"""The promotion gate, which compares a run with the champion, and promotion and rollback of the run in production.

Start with `gate.py` and `promote.py`, the two jobs.
"""
