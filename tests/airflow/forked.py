"""Run with Airflow's Python: commands of Airflow, each in a fork of one process, since importing Airflow and making the
routes of the API that its tasks call take seconds.

Reads a request a line from stdin, as JSON: `arguments` for Python (-m airflow ..., or a script), `variables` of the
environment, `stdout` and `stderr`, the files that the command's output goes to. Answers each with its exit code.
"""

import asyncio
import importlib
import json
import os
import runpy
import sys
import threading

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Airflow logs to stdout while it is imported

for module in (
    "airflow.cli.commands.dag_command",
    "airflow.cli.commands.db_command",
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.python",
    "airflow.sdk.execution_time.supervisor",
):
    importlib.import_module(module)

from airflow.sdk.execution_time.supervisor import in_process_api_server  # noqa: E402 - Airflow logs while it is imported


async def ask_for_nothing(api: object) -> None:
    """The first request, of any path, makes the routes."""

    async def receive() -> dict:
        return {"type": "http.request"}

    async def send(message: dict) -> None:
        pass

    await api({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send)


asyncio.run(ask_for_nothing(in_process_api_server().app))


def next_request() -> dict | None:
    """The request that this process, a fork, is to run; None at the end of stdin, in the first process."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return None


def become(request: dict) -> None:
    """Take a request's files and environment, as a process of its own would have them."""
    for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(request["variables"])
    sys.argv = request["arguments"]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


assert threading.active_count() == 1, "a fork would lack the other threads"
if asked := next_request():
    become(asked)
