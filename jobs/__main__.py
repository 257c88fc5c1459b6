"""The console command `mamdr JOB ...`: runs a job in this process, as `python jobs/JOB.py`; alone, lists the jobs."""

import ast
import runpy
import sys
from importlib import resources

from mamdr_core.config.command_line import OK, USER_ERROR

USAGE = "usage: mamdr JOB [--config FILE] [--set a.b=value] ...\n\nJobs (mamdr JOB --help describes one):"


def main() -> int:
    """Run the job that the first argument names, with the other arguments.

    A job is named in full, or by an unambiguous beginning: `mamdr train` runs train_mamdr.

    Returns:
        The exit code: that of the job; 0 for the list of jobs; 2 if no job, or more than one, has the name.
    """
    jobs = _first_lines()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE, *(f"  {job:<20}{line}" for job, line in jobs.items()), sep="\n")
        return OK
    found = [job for job in jobs if job == name] or [job for job in jobs if job.startswith(name)]
    if len(found) != 1:
        print(f"error: job {name}: expected one of {', '.join(found or jobs)}", file=sys.stderr)
        return USER_ERROR
    sys.argv = [f"mamdr {found[0]}", *sys.argv[2:]]
    runpy.run_module(f"jobs.{found[0]}", run_name="__main__", alter_sys=True)
    raise AssertionError(f"job {found[0]} did not exit")


def _first_lines() -> dict[str, str]:
    """The docstring of each job's file, by the job's name."""
    files = sorted(resources.files("jobs").iterdir(), key=lambda file: file.name)
    jobs = [file for file in files if file.name.endswith(".py") and not file.name.startswith("_")]
    return {file.name.removesuffix(".py"): ast.get_docstring(ast.parse(file.read_text())) or "" for file in jobs}


if __name__ == "__main__":
    sys.exit(main())
