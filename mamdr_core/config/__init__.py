"""The configuration: one file of settings for each package that is configured, and how YAML and command lines set them.

Start with `job_config.py` (the whole, and how it is loaded) and `command_line.py` (how every job starts).
"""
