"""The engine: columns of rows, parameters, gradients and inner loops, prediction and metrics.

Start with `eager.py`, the reference engine; `fast.py` gives the same numbers in less time. Needs only torch and numpy.
Shape suffixes: B rows of a batch, N all rows, n domains, P dense parameters, U distinct rows of an embedding table,
D width of a table, G trajectories or domains that run together, S steps, W ranks.
"""
