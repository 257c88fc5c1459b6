"""build_examples: encodes new clicks and writes them to sorted shards. Start with job.py, then increments.py."""
