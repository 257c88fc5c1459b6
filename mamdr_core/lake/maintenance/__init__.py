"""maintain_lake and forget_users: files are joined and removed, and rows of users taken out. Read job.py."""
