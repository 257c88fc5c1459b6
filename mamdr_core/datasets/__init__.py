"""Synthetic logs with known click probabilities, and converters of the public data sets of the paper to logs.

Start with `synthetic.py`, `amazon.py` and `taobao.py`, the jobs.
"""
