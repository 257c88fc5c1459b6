"""Keeps Spark's archive of PySpark's sources and its JARs off the path of every Python process of .venv.

Spark puts them first on the path of each Python process that it starts, which would compile the archive's modules and
index both: a second of processor time, and a quarter for every later task. .venv has PySpark as a package, compiled
once. Set-up installs this module as mamdr_spark_path, with a .pth file that imports it when Python starts.
"""

import sys

_HOME = f"{sys.prefix}/lib/python3.11/site-packages/pyspark"
sys.path[:] = [entry for entry in sys.path if not entry.startswith((f"{_HOME}/python/", f"{_HOME}/jars/"))]
