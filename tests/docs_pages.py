"""Reading the pages of docs/: their code blocks, links and tables."""

import re
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))


class Table(NamedTuple):
    """A Markdown table: the page's name, the header's cells and those of each row."""

    page: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def tables(page: Path) -> list[Table]:
    """The tables of a page."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", prose(page), flags=re.MULTILINE):
        header, _, *rows = (_cells(line) for line in block.splitlines())
        found.append(Table(page.relative_to(ROOT).as_posix(), header, tuple(rows)))
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
