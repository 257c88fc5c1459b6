"""The run: rounds, validation, early stop, the model package, and its record in the lake.

Start with `driver.py` (the job), `worker.py` (a rank) and `trainer.py` (the loop).
"""
