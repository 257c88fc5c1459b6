"""maintain_lake and forget_users: files are joined and removed (job.py), rows of users taken out (forget.py)."""
