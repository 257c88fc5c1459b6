"""The jobs, one file each. `spark-submit jobs/NAME.py` runs one; where the wheel is installed, `mamdr NAME` does."""
