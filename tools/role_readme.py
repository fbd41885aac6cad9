"""The tables of variables in ansible/roles/*/README.md, made of the roles' meta/argument_specs.yml.

    .venv/bin/python tools/role_readme.py       writes them anew, between the two marks of each page

tests/unit/test_ansible_collection.py demands that there is nothing to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "ansible" / "roles"
BEGIN = "<!-- variables: tools/role_readme.py -->"
END = "<!-- end of variables -->"


def main() -> None:
    for role in sorted(ROLES.iterdir()):
        page = role / "README.md"
        written = page.read_text()
        if (fresh := with_table(written, specification(role))) != written:
            page.write_text(fresh)
            print(page)


def specification(role: Path) -> dict[str, Any]:
    """The role's main entry point."""
    specs: dict[str, Any] = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    main: dict[str, Any] = specs["argument_specs"]["main"]
    return main


def with_table(page: str, spec: Mapping[str, Any]) -> str:
    """The page with the table between its marks."""
    head, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{head}{begin}\n{table(spec['options'])}\n{end}{tail}"


def table(options: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per variable, in the order of the specification."""
    rows = [("variable", "type", "default", "what it is"), ("---",) * 4]
    rows += [(f"`{name}`", _kind(option), _code(option["default"]), _prose(option)) for name, option in options.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _kind(option: Mapping[str, Any]) -> str:
    if "choices" in option:
        return " or ".join(_code(choice) for choice in option["choices"])
    return f"list of {option['elements']}" if "elements" in option else str(option["type"])


def _code(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{_escaped(text)}`"


def _prose(option: Mapping[str, Any]) -> str:
    told = option["description"]
    sentences = [told] if isinstance(told, str) else told
    secret = ["It is kept out of logs."] if option.get("no_log") else []
    return " ".join(_marked_down([*sentences, *secret]))


def _marked_down(sentences: list[str]) -> Iterator[str]:
    """Ansible's C(code), O(option) and V(value) as Markdown has them."""
    for sentence in sentences:
        yield _escaped(re.sub(r"\b[COVE]\(([^)]*)\)", r"`\1`", " ".join(sentence.split())))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
