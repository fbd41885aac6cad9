"""Filters over several fields at once: `_any_` and `_all_`, `filters`, and the words of `search_text`.

They reach through lists and dictionaries, so all of them are tests in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .. import errors
from .comparisons import date_bounds
from .condition import Condition, Test, needs
from .entity import Document, Entity
from .paths import path_of, text_at, values_at
from .patterns import matcher

ANY = frozenset({"_any_", "_or_"})
ALL = frozenset({"_all_", "_and_"})


def several_condition(name: str, wanted: dict[str, Any], entity: Entity) -> Condition:
    """`_any_` or `_all_`: a pattern or dates, looked for in several fields."""
    names = wanted.get("fields")
    if not isinstance(names, list) or not names or not all(isinstance(item, str) for item in names):
        raise errors.VALIDATION("expected fields and a pattern or a datetime", field=name)
    for item in names:
        entity.require(item, "search")
    paths = [path_of(item) for item in names]
    test = _multi_test(name, wanted)
    combine = any if name in ANY else all
    return Condition(test=lambda doc: combine(test(values_at(doc, path)) for path in paths), needs=needs(*names))


def _multi_test(name: str, wanted: dict[str, Any]) -> Callable[[list[Any]], bool]:
    if "pattern" in wanted:
        if not isinstance(wanted["pattern"], str):
            raise errors.VALIDATION("expected a string", field=f"{name}.pattern")
        matches = matcher(wanted["pattern"], ignore_case=True)
        return lambda values: any(matches(value) for value in values if isinstance(value, str))
    bounds = date_bounds(name, wanted.get("datetime"))
    return lambda values: any(value and all(compare(value, bound) for compare, bound in bounds) for value in values)


def filter_conditions(wanted: dict[str, Any], entity: Entity) -> Iterable[Condition]:
    """`filters`: values to include and exclude, field by field."""
    for name, rule in wanted.items():
        entity.require(name, "filter")
        if not isinstance(rule, dict):
            raise errors.VALIDATION("expected an object", field=f"filters.{name}")
        tests = [test for kind in ("any", "all") if (test := _filter_test(name, kind, rule.get(kind)))]
        if tests:
            combine = any if rule.get("op") == "or" else all
            yield Condition(test=_combined(path_of(name), tests, combine), needs=needs(name))


def _filter_test(name: str, kind: str, part: Any) -> Callable[[list[Any]], bool] | None:
    if not part:
        return None
    if not isinstance(part, dict):
        raise errors.VALIDATION("expected an object", field=f"filters.{name}.{kind}")
    include, exclude = part.get("include") or [], part.get("exclude") or []
    quantify = any if kind == "any" else all

    def test(values: list[Any]) -> bool:
        present = [value for value in values if value not in (None, "")]
        checks = [item in present if item is not None else not present for item in include]
        checks += [item not in present if item is not None else bool(present) for item in exclude]
        return quantify(checks) if checks else True

    return test


def _combined(
    path: tuple[str, ...], tests: list[Callable[[list[Any]], bool]], combine: Callable[[Iterable[bool]], bool]
) -> Test:
    return lambda doc: combine(test(values_at(doc, path)) for test in tests)


def search_condition(text: str, entity: Entity) -> Condition:
    """`search_text`: every word somewhere in the searched fields."""
    words = text.casefold().split()

    def found(doc: Document) -> bool:
        hay = " ".join(text_at(doc, (name,)) for name in entity.search).casefold()
        return all(word in hay for word in words)

    return Condition(test=found, needs=entity.search)
