"""build_examples: new clicks become vocabularies and encoded rows in sorted shards. Read job.py, then increments.py."""
