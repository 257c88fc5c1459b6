"""The lake itself: tables and their logs, files, the session, sources, and how decisions are hashed. Read tables.py."""
