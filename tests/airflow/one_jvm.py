"""Jobs as programs, one after the other in the JVM of one spark-submit, whose start takes longer than most jobs.

spark-submit one_jvm.py serve ADDRESS
python one_jvm.py send ADDRESS JOB ARGUMENTS    as `spark-submit JOB ARGUMENTS`
python one_jvm.py send ADDRESS                  ends the server
"""

import contextlib
import io
import os
import runpy
import sys
import traceback
from multiprocessing.connection import Client, Listener


def run_job(folder: str, words: list[str]) -> tuple[int, str]:
    """Run a job in a folder, with a Spark session that it starts and stops; its exit code and stdout."""
    from pyspark import SparkContext

    os.chdir(folder)
    sys.argv, out, code = words, io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
    if SparkContext._jvm:  # what Delta has read belongs to the session that has ended
        SparkContext._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    return code, out.getvalue()


def serve(address: str) -> None:
    """Run jobs until an empty request."""
    with Listener(address, "AF_UNIX") as listener:
        while True:
            with listener.accept() as client:
                folder, words = client.recv()
                if not words:
                    return
                client.send(run_job(folder, words))


def send(address: str, words: list[str]) -> int:
    """Have a job run; print its stdout and return its exit code."""
    with Client(address, "AF_UNIX") as server:
        server.send((os.getcwd(), words))
        if not words:
            return 0
        code, out = server.recv()
    print(out, end="", flush=True)
    return code


if __name__ == "__main__":
    role, place, *rest = sys.argv[1:]
    sys.exit(serve(place) if role == "serve" else send(place, rest))
