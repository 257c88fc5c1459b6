"""The jobs, one file each. `spark-submit jobs/NAME.py` runs one; where the wheel is installed, `mamdr NAME` does.

A job imports what it runs inside its function, so that --help, --print-config and mistakes are answered at once.
"""
