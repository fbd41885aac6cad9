"""What holds for the tree as a whole, whatever is in it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: Put together from parts, because this file is searched too.
FORBIDDEN = {
    "path of a machine": re.compile(r"(?<![\w.~])/(?:work|root)/" + r"(?!\.\.\.)"),
    "folder beside the checkout": re.compile(r"\.\./" + "shared"),
    "host of a package registry": re.compile(
        "|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "deb" + r"\.debian", "npmjs" + r"\.(org|com)"))
    ),
}

#: Paths inside container images, which are not ours to choose.
ALLOWED = re.compile("/root" + r"/\.(cache|clearml|ssh)\b")


def _files() -> list[Path]:
    """Every file that belongs to the project: tracked, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [path for name in listed if (path := ROOT / name).is_file()]


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_no_file_names_what_only_one_machine_has(what: str) -> None:
    found = []
    for file in _files():
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
            if FORBIDDEN[what].search(ALLOWED.sub("", line)):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found


def test_names_of_test_files_are_unique() -> None:
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_every_layer_of_tests_has_content() -> None:
    for layer in ("unit", "contract", "integration", "acceptance"):
        assert list((ROOT / "tests" / layer).glob("test_*.py")), layer


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for package in ("agent", "apiserver", "supervisor_gen", "demo", "benchmarks", "tests")
        for file in (ROOT / package).rglob("*.py")
        if file.read_text().strip() and not file.read_text().lstrip().startswith('"""')
    ]
    assert not silent


def test_links_in_the_documentation_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
