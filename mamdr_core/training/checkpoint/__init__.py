"""Checkpoints: the state of a run between two rounds, written while training continues. Start with `checkpoints.py`."""
