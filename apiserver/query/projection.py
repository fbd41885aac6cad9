"""`only_fields`: the part of a document that was asked for, and the `-fields` that are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..fields import Fields
from .entity import Document, Entity
from .paths import names_in, path_of


def projection_of(data: Fields, entity: Entity) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read which paths are wanted (none: everything) and which are not."""
    names = names_in(data.get("only_fields", data.get("projection", [])), "only_fields")
    for name in names:
        entity.require(name.removeprefix("-"), "only_fields")
    only = tuple(name for name in names if not name.startswith("-"))
    return only, tuple(name[1:] for name in names if name.startswith("-"))


def project(document: Document, only: Sequence[str], without: Sequence[str] = ()) -> Document:
    """The part of a document that was asked for. Containers on the way exist even when the leaf does not."""
    if only:
        tree: dict[str, Any] = {"id": {}}
        for name in only:
            _plant(tree, path_of(name))
        document = _pruned(document, tree)
    for name in without:
        document = _dropped(document, path_of(name))
    return document


def _plant(tree: dict[str, Any], path: Sequence[str]) -> None:
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if tree.get(part) == {} and part in tree:
            return  # a shorter path already asks for everything here
        tree = tree.setdefault(part, {}) if not last else tree
        if last:
            tree[part] = {}


def _pruned(document: Document, tree: Mapping[str, Any]) -> Document:
    result: Document = {}
    for key, below in tree.items():
        value = document.get(key)
        if not below:
            if key in document:
                result[key] = value
        elif isinstance(value, list):
            result[key] = [_pruned(item, below) if isinstance(item, dict) else item for item in value]
        elif isinstance(value, dict):
            result[key] = _pruned(value, below)
        elif value is None:
            result[key] = {}
        else:
            result[key] = value
    return result


def _dropped(document: Document, path: Sequence[str]) -> Document:
    if path[0] not in document:
        return document
    if len(path) == 1:
        return {key: value for key, value in document.items() if key != path[0]}
    below = document[path[0]]
    return {**document, path[0]: _dropped(below, path[1:])} if isinstance(below, dict) else document
