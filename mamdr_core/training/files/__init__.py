"""Folders and files that training writes, with a manifest of sizes and hashes. Start with `manifest.py`."""
