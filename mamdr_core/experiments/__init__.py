"""Experiments of many runs: comparisons of methods and models, sweeps over settings, and gradient conflict.

Start with `compare.py` and `sweep.py` (the jobs) and `running.py` (how trials run).
"""
