"""What leaves the path of Python in an environment that set-up made."""

import json
import os
import subprocess
import sys


def test_only_the_archive_of_pyspark_and_the_jars_of_this_environment_leave_the_path(tmp_path):
    home = f"{sys.prefix}/lib/python3.11/site-packages/pyspark"
    sent = f"{home}/work/app-1/0/package.zip"  # by --py-files, to an executor that works below PySpark's folder
    other = f"{tmp_path}/lib/python3.11/site-packages/pyspark/python/lib/pyspark.zip"
    entries = [f"{home}/python/lib/pyspark.zip", sent, f"{home}/jars/spark-core.jar", other]
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert [entry for entry in json.loads(found) if entry in entries] == [sent, other]
