"""ingest_clicks: reads a source, applies rules and the quality check, and publishes a load. Start with job.py."""
