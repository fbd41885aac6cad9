"""The query language that every `*.get_all` shares.

A request is parsed once, against a description of the kind of record (`Entity`), into conditions, an order, a page and
a projection. What SQL can say on plain columns is said in SQL; the rest (regular expressions, tags, dotted paths into
free-form dictionaries) is tested in Python on only the columns it needs, and the full records of just one page are read
afterwards.

    query = parse(data, TASKS, scroll=call.services.scroll)
    documents = fetch(tx, TASKS, query, task.c.company == company)

`request` ★ reads a request, `reading` ★ answers it. Each kind of filter has its file (`patterns`, `lists`,
`comparisons`, `searches`) and makes the same thing, a `Condition`; `order`, `paging` and `projection` are the rest of a
request. Only `reading` touches the database.
"""

from __future__ import annotations

from .entity import Document, Entity
from .lists import list_filter
from .paths import values_at
from .patterns import Literal, matcher
from .projection import project
from .reading import fetch
from .request import Query, parse

__all__ = [
    "Document",
    "Entity",
    "Literal",
    "Query",
    "fetch",
    "list_filter",
    "matcher",
    "parse",
    "project",
    "values_at",
]
