"""The pages of the documentation, and the code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")
_MARK = re.compile(r"^ *<!-- (?P<reason>not run: \S.*|run by tests/[\w/]+\.py) -->$")


class Block(NamedTuple):
    """A fenced code block: where it begins, and the reason for which its page's script omits it, if there is one."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, without the indentation of its fence."""
    lines = page.read_text().splitlines()
    found, number = [], 0
    while number < len(lines):
        if opened := _FENCE.match(lines[number]):
            end = lines.index(opened["indent"] + "```", number + 1)
            text = "".join(line.removeprefix(opened["indent"]) + "\n" for line in lines[number + 1 : end])
            marked = _MARK.match(lines[number - 1]) if number else None
            found.append(Block(page, number + 1, opened["language"], text, marked and marked["reason"]))
            number = end
        number += 1
    return found


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
