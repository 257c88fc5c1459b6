"""ingest_clicks: a source is read, judged by rules and gate, and published as a load of clicks. Read job.py."""
