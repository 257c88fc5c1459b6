"""From one pinned Delta version to columns in memory."""
