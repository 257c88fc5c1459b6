"""Command line of all jobs: arguments, log, exit code, and one JSON object as the last line of stdout."""

import argparse
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mamdr_core.config.job_config import Config, dump_config, load_config, with_values
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.stop_request import on_sigterm

OK, USER_ERROR, BUG = 0, 2, 1


@dataclass(frozen=True)
class Option:
    """A job-specific option that sets a config key: `--flag` to `const`, `--flag VALUE` to the value.

    Args:
        flag: such as "--resume".
        key: the config key.
        metavar: name of the value in the help; empty: the option takes no value.
        const: value of the key if no value is given.
        help: description in the help.
    """

    flag: str
    key: str
    metavar: str
    const: str
    help: str


def run_job(
    job: Callable[[Config], dict[str, Any]], arguments: list[str] | None = None, own: Sequence[Option] = ()
) -> int:
    """Run `job` with the configuration of the command line and report its result.

    Args:
        job: takes the resolved Config and returns its figures; its name is that of the job, and its docstring, with
            examples, is the help text.
        arguments: command line without the program; None: `sys.argv`.
        own: job-specific options, which override --set.

    Returns:
        The exit code: 0, or 2 with a one-line message for user errors. Bugs are raised with their traceback.
    """
    options = _parser(job, own).parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        config = load_config(options.config, options.set)
        given = {option.key: getattr(options, option.key) for option in own}
        config = with_values(config, {key: value for key, value in given.items() if value is not None})
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
    if sys.stderr.isatty():
        from mamdr_core.runtime.terminal import show_figures  # not needed for `--help` and errors

        show_figures(job.__name__, figures | {"elapsed_seconds": elapsed})
    _print_result({"job": job.__name__, "status": "ok", **figures, "elapsed_seconds": elapsed})
    return OK


def _stop() -> NoReturn:
    raise StoppedError("stopped by SIGTERM")


def _print_result(result: dict[str, Any]) -> None:
    sys.stderr.flush()
    print(json.dumps(result, default=str), flush=True)


def _parser(job: Callable[[Config], dict[str, Any]], own: Sequence[Option]) -> argparse.ArgumentParser:
    about, command = inspect.getdoc(job) or "", f"spark-submit jobs/{job.__name__}.py"
    example = "" if command in about else f"Example:\n    {command} --config conf/demo.yaml\n\n"
    parser = argparse.ArgumentParser(
        prog=command,
        description=about,
        epilog=f"{example}All keys: docs/config.md. Logs go to stderr; the last line of stdout is one JSON object.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[],
        help="YAML file; missing keys keep their defaults (may be repeated: a later file overrides an earlier one)",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="a.b=value", action="append", default=[], help="set one key (may be repeated); value in YAML"
    )
    for option in own:
        named: dict[str, Any] = {"dest": option.key, "const": option.const, "help": option.help}
        if option.metavar:
            parser.add_argument(option.flag, metavar=option.metavar, nargs="?", **named)
        else:
            parser.add_argument(option.flag, action="store_const", **named)
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    return parser
