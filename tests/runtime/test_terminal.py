"""What a person at a terminal sees of a job: how far it is, and its figures at the end, which files do without."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mamdr_core.runtime import pace as module
from mamdr_core.runtime.pace import ProgressLog
from mamdr_core.runtime.terminal import show_figures

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"rows_in": 1234567, "auc": 0.61238, "seconds": {"ranks": 3.0}, "ok": True, "oracle": None, "path": "/a/[b]"}


def test_a_loop_logs_done_rate_and_time_left(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger=module.__name__)
    seconds = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr(module, "EVERY", 30.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    pace = ProgressLog("measuring test", 4000)
    for _ in range(3):
        pace.add(1000)
    assert [record.getMessage() for record in caplog.records] == [
        "measuring test: 2,000 of 4,000 rows (50/s), about 0:00:40 left"
    ]


def test_a_short_loop_logs_nothing(caplog):
    caplog.set_level(logging.INFO, logger=module.__name__)
    ProgressLog("reading", 10).add(10)
    assert caplog.records == []


def test_figures_are_a_table_at_a_terminal_alone():
    terminal, file = io.StringIO(), io.StringIO()
    show_figures("ingest_clicks", FIGURES, Console(file=terminal, force_terminal=True, width=60, color_system=None))
    shown = [re.findall(r"[^│┃]+", line) for line in terminal.getvalue().splitlines() if line.startswith("│")]
    assert [tuple(cell.strip() for cell in cells) for cells in shown] == [
        ("rows in", "1,234,567"),
        ("auc", "0.6124"),
        ("seconds", "ranks 3.0000"),
        ("ok", "yes"),
        ("oracle", "-"),
        ("path", "/a/[b]"),
    ]
    show_figures("ingest_clicks", FIGURES, Console(file=file))
    assert file.getvalue() == ""


@pytest.mark.parametrize("at_terminal", [True, False])
def test_a_job_ends_with_its_table_where_stderr_is_a_terminal(at_terminal):
    code = "import sys; from mamdr_core.config.command_line import run_job\n"
    code += "def count(config):\n    'Counts.'\n    return {'rows': 12345}\n"
    main, end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(run_job(count, []))"],
        stdout=subprocess.PIPE, stderr=end if at_terminal else subprocess.PIPE, text=True, cwd=ROOT, check=True,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(end)
    output = os.read(main, 10_000).decode() if at_terminal else done.stderr
    os.close(main)
    assert json.loads(done.stdout)["rows"] == 12345
    assert ("12,345" in output) is at_terminal
    assert at_terminal or output == ""
