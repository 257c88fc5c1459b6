"""maintain_lake (job.py) compacts tables and removes old files; forget_users (forget.py) removes rows of users."""
