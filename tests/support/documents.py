"""The commands of the documentation: `$ ` lines of `console` blocks, and `sh` blocks, with the test that runs them.

A comment `<!-- tested by FILE -->` above a block names what runs its commands. Blocks without one are run by
`tests/acceptance/test_documented_commands.py`, all blocks of a page in one shell, from the top of the page down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_BLOCK = re.compile(
    r"(?:<!-- tested by (?P<by>\S+) -->\n)?^```(?P<kind>console|sh|bash|shell)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of commands; `tested_by` is empty when the documentation test itself is to run it."""

    page: Path
    kind: str
    commands: tuple[str, ...]
    tested_by: str


def pages() -> list[Path]:
    """Every page that people read."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text()):
        lines = match["text"].splitlines()
        if match["kind"] == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield Block(page=page, kind=match["kind"], commands=tuple(filter(None, lines)), tested_by=match["by"] or "")
