"""The configuration: one file of settings for each package that is configured, and how they are read from YAML.

Start with `job_config.py` (the whole, and how it is loaded); `settings.py` has the decorator of all settings.
"""
