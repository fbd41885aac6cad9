"""The commands of the documentation: `sh` blocks, and the `$ ` lines of `console` blocks.

All blocks of a page are run in one shell, from the top of the page down, by
`tests/acceptance/test_documented_commands.py`. A comment right above a block says otherwise:

    <!-- tested by FILE -->                  something else runs these commands
    <!-- only the options are tested -->     they need what a test machine does not have
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_BLOCK = re.compile(
    r"""(?:^<!--\ (?:tested\ by\ (?P<by>\S+)|(?P<options>only\ the\ options\ are\ tested))\ -->\n)?
        ^```(?P<kind>console|sh|bash|shell)\n
        (?P<text>.*?)
        ^```$""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of commands, and the file that runs them if it is not the documentation's own test."""

    page: Path
    commands: tuple[str, ...]
    tested_by: str
    only_options: bool


def pages() -> list[Path]:
    """Every page that people read."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks_of(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text()):
        lines = match["text"].splitlines()
        if match["kind"] == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield Block(
            page=page,
            commands=tuple(filter(None, lines)),
            tested_by=match["by"] or "",
            only_options=bool(match["options"]),
        )
