"""What every job's command line shares: arguments, log, exit code, and one JSON object as the last line of stdout."""

import argparse
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from mamdr_core.config import Config, dump_config, load_config, with_values
from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.stopping import on_sigterm

OK, USER_ERROR, BUG = 0, 2, 1


def run_job(job: Callable[[Config], dict[str, Any]], arguments: list[str] | None = None, resumes: bool = False) -> int:
    """Run `job` on the configuration that the command line names and report it.

    Args:
        job: takes the resolved Config and returns its figures; its name is the job's, its docstring the help.
        arguments: command line without the program; None: this process's.
        resumes: whether it goes on where an earlier run of it was.

    Returns:
        The exit code: 0, or 2 after one clear line for what a user can cause. A bug keeps its traceback.
    """
    options = _parser(job, resumes).parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        config = load_config(options.config, options.set)
        if resumes and options.resume:
            config = with_values(config, {"train.resume": options.resume})
        if options.print_config:
            print(dump_config(config), end="")
            return OK
        started = time.perf_counter()
        with on_sigterm(_stop):
            figures = job(config)
    except MamdrError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = "stopped" if isinstance(error, StoppedError) else "failed"
        _print_result({"job": job.__name__, "status": status, "error": str(error)})
        return USER_ERROR
    except BaseException as error:
        _print_result({"job": job.__name__, "status": "crashed", "error": f"{type(error).__name__}: {error}"})
        raise
    elapsed = round(time.perf_counter() - started, 2)
    _print_result({"job": job.__name__, "status": "ok", **figures, "elapsed_seconds": elapsed})
    return OK


def _stop() -> NoReturn:
    raise StoppedError("stopped by SIGTERM")


def _print_result(result: dict[str, Any]) -> None:
    sys.stderr.flush()
    print(json.dumps(result, default=str), flush=True)


def _parser(job: Callable[[Config], dict[str, Any]], resumes: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"spark-submit jobs/{job.__name__}.py",
        description=inspect.getdoc(job),
        epilog=f"example: spark-submit jobs/{job.__name__}.py --config conf/demo.yaml --set lake.root=.demo/lake\n"
        "All keys: docs/config.md. Logs go to stderr; the last line of stdout is one JSON object.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[],
        help="YAML file; keys left out keep their defaults (may be repeated: a later file overrides an earlier one)",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="a.b=value", action="append", default=[], help="set one key (may be repeated); value in YAML"
    )
    if resumes:
        parser.add_argument(
            "--resume", metavar="RUN_ID", nargs="?", const="newest", default="",
            help="go on from the newest checkpoint of this run; without RUN_ID of the newest unfinished run that "
            "computes the same, or start anew where there is none",
        )  # fmt: skip
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    return parser
