"""docs/guarantees.md names a test for each fault; the tests are there."""

from __future__ import annotations

import re

from support.documents import ROOT

PAGE = (ROOT / "docs/guarantees.md").read_text()
FAULTS = PAGE.partition("## Against which faults")[2].partition("## What cannot")[0]


def test_every_fault_names_a_test_that_is_there() -> None:
    rows = [line for line in FAULTS.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)`", row)
        assert named, row
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_limit_that_is_referred_to_is_explained() -> None:
    referred = {"⁰¹²³⁴⁵⁶⁷⁸⁹".index(sign) for sign in re.findall(r"[¹²³⁴⁵⁶⁷⁸⁹]", FAULTS)}
    explained = {int(number) for number in re.findall(r"^(\d+)\. \*\*", PAGE, re.M)}
    assert referred
    assert referred <= explained
