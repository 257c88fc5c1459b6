"""The site builds without a warning, needs no other host, and the pages' links, files and config keys exist."""

import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, prose_of

LINKED = [*PAGES, ROOT / "benchmarks" / "README.md"]
KEYS = set(re.findall(r"^\| `([\w.\[\]]+)` \|", (ROOT / "docs/config.md").read_text(), re.MULTILINE))
SECTIONS = {".".join(key.split(".")[:depth]) for key in KEYS for depth in range(1, key.count(".") + 1)}
FILES = (".md", ".tex", ".svg", ".csv", ".py", ".yaml", ".json", ".onnx", ".data")
pages = pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))


class Loaded(HTMLParser):
    """Addresses that a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and named.get("rel") in ("stylesheet", "icon")):
            self.addresses.append(named.get("src") or named.get("href") or "")


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        kept = [letter for letter in heading.lower() if letter in " -_" or unicodedata.category(letter)[0] in "LN"]
        found.add("".join(kept).replace(" ", "-"))
    return found


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert built == {page.stem for page in (ROOT / "docs").glob("*.md")} | {"benchmarks", "404"}
    for page in (tmp_path / "site").glob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert not [address for address in loaded.addresses if "//" in address]


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors_of(file), target


@pages
def test_files_and_keys_that_are_named_exist(page):
    for word in re.findall(r"`([^`\s]+)`", prose_of(page)):
        if re.fullmatch(r"(jobs|conf|docs|tests|benchmarks|environment|schemas|airflow_dags|mamdr_core)/[\w/.]*", word):
            assert (ROOT / word).exists() or list(ROOT.glob(f"{word}.*")), word
        if (
            re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", word)
            and word.partition(".")[0] in SECTIONS
            and Path(word).suffix not in FILES
        ):
            assert word in KEYS | SECTIONS, f"{word} is no config key"


@pages
def test_lists_and_tables_begin_after_an_empty_line(page):
    """GitHub does without, the site does not."""
    for before, line in zip(lines := prose_of(page).splitlines(), lines[1:], strict=False):
        begins = re.match(r"- |\d+\. |\|", line)
        assert not begins or not before or re.match(r"- |\d+\. |\||  ", before), line
