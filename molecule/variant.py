"""Another version of the present sources, as a folder of wheels: `variant.py WHEELHOUSE OUT VERSION [--broken]`.

For roll-outs in tests. With --broken its agents end as soon as they begin, as a release that was never tried would do.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("agent", "apiserver", "supervisor_gen", "systemd", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
BREAK = 'raise SystemExit("broken on purpose")\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheelhouse", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("version")
    parser.add_argument("--broken", action="store_true")
    asked = parser.parse_args()
    make(asked.wheelhouse, asked.out, asked.version, is_broken=asked.broken)


def make(wheelhouse: Path, out: Path, version: str, *, is_broken: bool = False) -> None:
    """Copy what the wheels of `wheelhouse` need, and build the product as `version` beside them."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(wheelhouse, out, ignore=shutil.ignore_patterns("gpufleet-*"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, copy)
        _replace(copy / "pyproject.toml", r'(?m)^version = ".*"$', f'version = "{version}"')
        _replace(copy / "agent/__init__.py", r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"')
        if is_broken:
            worker = copy / "agent/worker/__main__.py"
            worker.write_text(_broken(worker.read_text()))
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", out, copy], check=True)


def _replace(file: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, file.read_text())
    assert count == 1, f"{pattern} is {count} times in {file}"
    file.write_text(changed)


def _broken(text: str) -> str:
    """The module that ends at once, behind the imports that have to come first."""
    head, mark, rest = text.partition("from __future__ import annotations\n")
    return f"{head}{mark}\n{BREAK}\n{rest}"


if __name__ == "__main__":
    main()
