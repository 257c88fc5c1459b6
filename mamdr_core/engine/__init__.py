"""How an inner loop runs: parameters as one flat tensor, columns of rows, round plans, the eager reference engine.

Needs torch and numpy alone. Shape suffixes: B rows of a batch, N rows in all, n domains, P dense parameters, U distinct
rows of an embedding table, D width of one, W ranks.
"""
