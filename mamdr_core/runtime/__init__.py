"""What a process of a job or a rank needs: errors, command line, progress, stop requests, object stores.

Imports nothing of this package above it, but for `cli.py`, the entry of all jobs. Start with `errors.py` and `cli.py`.
"""
