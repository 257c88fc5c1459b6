"""The shell commands of the documentation, checked as far as that goes without running what they start."""

import importlib.util
import re
import runpy
import shlex
import sys
from itertools import groupby
from pathlib import Path

from tests.docs.pages import ROOT

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
_BETWEEN = {"&&", "||", "|", ";", "&"}


def commands_of(text: str) -> list[list[str]]:
    """The words of each command of a script; a variable is taken to hold a day."""
    text = re.sub(r"\$\{?\w+\}?", "2026-01-02", text.replace("\\\n", " "))
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [list(words) for line in lines for cut, words in groupby(line, lambda word: word in _BETWEEN) if not cut]


def check_command(words: list[str]) -> None:
    """Every program, target, module and file of ours that a command names is there; a job takes its arguments.

    Call it in a folder that holds what the command expects in its own, such as conf/.
    """
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program.startswith(".venv/"):
        assert (ROOT / program).exists(), f"{program} does not exist"
    if program == "make":
        targets = [word for word in arguments if not word.startswith("-") and "=" not in word]
        assert set(targets) <= TARGETS, f"make knows no {set(targets) - TARGETS}"
    if "-m" in arguments and Path(program).name.startswith("python"):
        module = arguments[arguments.index("-m") + 1]
        assert importlib.util.find_spec(module), f"there is no module {module}"
    for number, word in enumerate(arguments):
        if re.fullmatch(r"(jobs|benchmarks|environment)/\w+\.(py|sh)", word):
            assert (ROOT / word).is_file(), f"{word} does not exist"
            if word.startswith("jobs/"):
                check_job(word, arguments[number + 1 :])


def check_job(job: str, arguments: list[str]) -> None:
    """A job's own parser and configuration take its arguments; it starts nothing, since it is asked to print them."""
    before = sys.argv
    sys.argv = [job, *arguments, "--print-config"]
    try:
        runpy.run_path(str(ROOT / job), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    assert code == 0, f"{shlex.join([job, *arguments])} ends with {code}"
