"""The report of a run with many domains: its size, and the time to write it and to open it in headless Chromium.

    .venv/bin/python benchmarks/bench_report.py --domains 20000 --repeats 5

Figures are made up and written to a lake, which the report job reads like those of a trained run. Opening is timed from
the request for the file to the first frame after the page's script has ended, with the table of all domains drawn. Then
sorting by name, searching, and scrolling to the end are timed, each to the frame that shows the result.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine
from playwright.sync_api import Page, sync_playwright

from mamdr_core.config.job_config import load_config
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.reports.report import write_report
from tests.reports.example_facts import make_facts
from tests.reports.lake import write_facts

FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
ACTIONS = {
    "sort by name": "document.querySelector('#box th button').click()",
    "search": "{ const search = document.getElementById('search'); search.value = '77';"
    " search.dispatchEvent(new Event('input')); }",
    "scroll to the end": "{ const box = document.getElementById('box'); box.scrollTop = box.scrollHeight; }",
}


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        report = make(Path(folder) / "lake", options.domains)
        found = [opened(Path(report["report"])) for _ in range(options.repeats)]
    print(f"{machine()}; {report['domains']:,} domains, {report['bytes'] / 1e6:.2f} MB;")
    print(f"read from the lake in {report['seconds']['read']} s, written in {report['seconds']['write']} s.")
    print(f"In Chromium, median of {options.repeats} (least to greatest), a new browser each time:\n")
    print("| what | ms |")
    print("|---|---|")
    for what in found[0]:
        ms = [each[what] for each in found]
        print(f"| {what} | {statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f}) |")


def make(root: Path, domains: int) -> dict[str, Any]:
    """The result of the job for a report of this number of domains."""
    facts = make_facts(domains)
    with spark_session("bench_report") as spark:
        write_facts(Lake(spark, str(root)), facts)
        config = load_config(overrides=[f"lake.root={root}", f"report.run_id={facts.run['run_id']}"])
        write_report(spark, config)  # the first reads with a cold JVM
        report = write_report(spark, config)
        kept = root.parent / "report.html"
        shutil.copy(report["report"], kept)
    return report | {"report": str(kept)}


def opened(path: Path) -> dict[str, float]:
    """Milliseconds of opening it and of what a reader does."""
    with sync_playwright() as playwright:
        executable = shutil.which("chromium") or playwright.chromium.executable_path
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not work for root
        browser = playwright.chromium.launch(executable_path=executable, args=sandbox)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate(FRAME)
        figures = {"open": (time.perf_counter() - started) * 1e3}
        figures |= {what: timed(page, action) for what, action in ACTIONS.items()}
        browser.close()
    return figures


def timed(page: Page, action: str) -> float:
    """Milliseconds from an action to the frame that shows what it did."""
    code = f"const from = performance.now(); {action}; await {FRAME}; return performance.now() - from"
    return float(page.evaluate(f"async () => {{ {code} }}"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
