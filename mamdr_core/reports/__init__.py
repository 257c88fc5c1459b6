"""The HTML report of a run. Start with `report.py`, then `facts.py` (contents) and `page.py` (rendering)."""
