"""Make docs/report.png, README's picture of a report, from the newest run's page of the demo, in headless Chromium.

make demo && .venv/bin/python environment/report_picture.py
"""

import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
REPORTS, PICTURE = ROOT / ".demo/lake/reports", ROOT / "docs/report.png"
SIZE = {"width": 1160, "height": 828}
HIDDEN = "#gate, #day { display: none }"
"""Of the parts above the charts, the demo has no decision of the gate, and two days of a log that does not change."""


def main() -> None:
    page = max(REPORTS.glob("2*.html"), key=lambda file: file.stat().st_mtime)
    with sync_playwright() as playwright:
        executable = shutil.which("chromium") or playwright.chromium.executable_path
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it does not work for root
        browser = playwright.chromium.launch(executable_path=executable, args=sandbox)
        shown = browser.new_page(viewport=SIZE, color_scheme="light")
        shown.goto(page.as_uri())
        shown.add_style_tag(content=HIDDEN)
        shown.screenshot(path=PICTURE)
        browser.close()
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB of {page.name}")


if __name__ == "__main__":
    main()
