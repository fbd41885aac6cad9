"""The fields of a request, read with the types they must have.

A handler asks for what it needs by name and type; anything missing or of another type is refused with 400/12 naming the
field. Null counts as absent, unknown fields are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from . import errors

T = TypeVar("T")


class Fields(Mapping[str, Any]):
    """A request body after the query was merged over it."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self._required(name)
        return _typed(name, value, str, "a string")

    def ident(self, name: str) -> str:
        """An id that must be there: a text that is not empty."""
        value = self.text(name)
        if not value:
            raise errors.VALIDATION("value must not be empty", field=name)
        return value

    def text_or(self, name: str, default: str) -> str:
        """A text, or the default."""
        return _typed(name, self._values.get(name, default), str, "a string")

    def text_or_none(self, name: str) -> str | None:
        """A text, if there."""
        value = self._values.get(name)
        return None if value is None else _typed(name, value, str, "a string")

    def flag(self, name: str, default: bool) -> bool:
        """A boolean, or the default."""
        return _typed(name, self._values.get(name, default), bool, "a boolean")

    def integer(
        self, name: str, default: int | None = None, *, least: int | None = None, most: int | None = None
    ) -> int:
        """An integer; must be there when no default is given."""
        value = self._required(name) if default is None else self._values.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise errors.VALIDATION("expected an integer", field=name)
        _check_range(name, value, least, most)
        return value

    def number(
        self, name: str, default: float | None = None, *, least: float | None = None, most: float | None = None
    ) -> float:
        """A number; must be there when no default is given."""
        value = self._required(name) if default is None else self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise errors.VALIDATION("expected a number", field=name)
        _check_range(name, value, least, most)
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object, or an empty one."""
        return _typed(name, self._values.get(name, {}), dict, "an object")

    def listing(self, name: str) -> list[Any]:
        """A list, or an empty one."""
        return _typed(name, self._values.get(name, []), list, "a list")

    def strings(self, name: str) -> list[str]:
        """A list of strings, or an empty one."""
        values = self.listing(name)
        if not all(isinstance(value, str) for value in values):
            raise errors.VALIDATION("expected a list of strings", field=name)
        return values

    def idents(self, name: str) -> list[str]:
        """A list of ids that must be there and must not be empty."""
        self._required(name)
        values = self.strings(name)
        if not values:
            raise errors.VALIDATION("list must not be empty", field=name)
        return list(dict.fromkeys(values))

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, each to be read the same way; empty when absent."""
        values = self.listing(name)
        if not all(isinstance(value, dict) for value in values):
            raise errors.VALIDATION("expected a list of objects", field=name)
        return [Fields(value) for value in values]

    def one_of(self, name: str, allowed: frozenset[str], default: str | None = None) -> str:
        """A text out of a known set."""
        value = self.text(name) if default is None else self.text_or(name, default)
        if value not in allowed:
            raise errors.VALIDATION("unknown value", field=name, value=value, expected=sorted(allowed))
        return value

    def _required(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise errors.VALIDATION(f"missing required field: {name}", field=name) from None


def _typed(name: str, value: Any, kind: type[T], wanted: str) -> T:
    if not isinstance(value, kind):
        raise errors.VALIDATION(f"expected {wanted}", field=name)
    return value


def _check_range(name: str, value: float, least: float | None, most: float | None) -> None:
    if (least is not None and value < least) or (most is not None and value > most):
        raise errors.VALIDATION("value is out of range", field=name, value=value)
