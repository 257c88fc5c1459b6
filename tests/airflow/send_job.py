"""Stands in for spark-submit: has the process that listens at an address run a job, and ends as the job does.

python send_job.py ADDRESS JOB ARGUMENTS    as `spark-submit JOB ARGUMENTS`
"""

import os
import sys
from multiprocessing.connection import Client

if __name__ == "__main__":
    address, *words = sys.argv[1:]
    with Client(address, "AF_UNIX") as server:
        server.send((os.getcwd(), words))
        code, out = server.recv()
    print(out, end="", flush=True)
    sys.exit(code)
