"""What a process of a job or a rank needs: errors, progress, stop requests, object stores.

Imports no other package. Start with `errors.py`.
"""
