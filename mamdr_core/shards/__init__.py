"""From one pinned Delta version to columns in memory; the only importer of Petastorm."""
