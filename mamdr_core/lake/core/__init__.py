"""What the jobs of the lake share: tables, their logs, files, Spark session, sources, hashing. Start with tables.py."""
