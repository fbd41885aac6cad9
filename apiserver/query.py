"""The query language that every `*.get_all` shares.

A request is parsed once, against a description of the kind of record (`Entity`), into conditions, an order, a page and
a projection. What SQL can say on plain columns is said in SQL; the rest (regular expressions, tags, dotted paths into
free-form dictionaries) is tested in Python on only the columns it needs, and the full records of just one page are read
afterwards.

    query = parse(data, TASKS, scroll=call.services.scroll)
    documents = fetch(tx, TASKS, query, task.c.company == company)

A regular expression comes from a stranger: it is matched with a time limit, and the usual `^name$` never reaches the
engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from . import clock, errors
from .fields import Fields
from .scroll import ScrollIds, fingerprint
from .store.database import Row, Session

MOST_PER_PAGE = 500
REGEX_BUDGET_SECONDS = 1.0
LONGEST_PATTERN = 10_000

Document = dict[str, Any]
Test = Callable[[Document], bool]

_ANY = {"_any_", "_or_"}
_ALL = {"_all_", "_and_"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A kind of record: its fields on the wire, where they are stored, and which filters exist for them."""

    name: str
    table: sa.Table
    fields: Mapping[str, tuple[ColumnElement[Any], ...]]  # top-level field → the columns it is made of
    source: Callable[[set[str]], FromClause]  # the tables that hold these fields
    document: Callable[[Row, Iterable[str]], Document]  # a row with these fields as the wire shows it
    columns: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)  # path → plain column, beyond `fields`
    patterns: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    ranges: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    equal: frozenset[str] = frozenset()
    search: frozenset[str] = frozenset({"id", "name"})
    tolerated: frozenset[str] = frozenset()  # fields of the real server that we never have
    choices: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def column(self, path: str) -> ColumnElement[Any] | None:
        """The plain column behind a path, when there is one that SQL can compare."""
        if path in self.columns:
            return self.columns[path]
        made_of = self.fields.get(path, ())
        if len(made_of) == 1 and not isinstance(made_of[0].type, sa.JSON):
            return made_of[0]
        return None

    def require(self, path: str, what: str) -> None:
        """Refuse a path whose first part is no field."""
        top = path.partition(".")[0]
        if top not in self.fields and top not in self.tolerated and not top.startswith("@"):
            raise errors.UNKNOWN_FIELD(what, field=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One filter: as SQL, or as a test on a document with these fields loaded."""

    sql: ColumnElement[bool] | None = None
    test: Test | None = None
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A parsed request."""

    conditions: tuple[Condition, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()  # path, descending
    offset: int = 0
    limit: int = MOST_PER_PAGE
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    scrolls: bool = False
    shape: str = ""  # fingerprint of what a scroll id belongs to

    def next_scroll_id(self, scroll: ScrollIds, count: int) -> str | None:
        """The id that continues after this page; None when the caller does not scroll."""
        return scroll.pack({"offset": self.offset + count, "query": self.shape}) if self.scrolls else None


# --- parsing ---


def parse(data: Fields, entity: Entity, *, scroll: ScrollIds | None = None) -> Query:
    """Read a request; refuses what cannot be understood."""
    only, without = _projection(data, entity)
    offset, limit, scrolls = _page(data, scroll)
    return Query(
        conditions=tuple(_conditions(data, entity)),
        order=_order(data, entity),
        offset=offset,
        limit=limit,
        only=only,
        without=without,
        scrolls=scrolls,
        shape=_shape(data) if scrolls else "",
    )


def _shape(data: Fields) -> str:
    return fingerprint(
        {key: value for key, value in data.items() if key not in {"scroll_id", "refresh_scroll", "method"}}
    )


def _conditions(data: Fields, entity: Entity) -> Iterable[Condition]:
    for name in data:
        if _named(name, entity.patterns) and isinstance(data[name], str):
            yield _pattern(name, data[name], entity)
        elif _named(name, entity.lists):
            yield from _list(name, data[name], entity)
        elif _named(name, entity.ranges):
            yield from _range(name, data[name], entity)
        elif _named(name, entity.dates):
            yield from _dates(name, data[name], entity)
        elif _named(name, entity.equal):
            yield _equal(name, data[name], entity)
        elif name in entity.patterns:
            raise errors.VALIDATION("expected a string", field=name)
        elif name in _ANY or name in _ALL:
            yield _multi(name, data.mapping(name), entity)
        elif name == "filters":
            yield from _filters(data.mapping(name), entity)
        elif name == "search_text":
            yield _search(data.text(name), entity)


def _named(name: str, known: frozenset[str]) -> bool:
    """Whether a field is in a set of names, of which some end in `.*`."""
    if name in known:
        return True
    parts = name.split(".")
    return any(".".join(parts[:cut]) + ".*" in known for cut in range(1, len(parts)))


def path_of(name: str) -> tuple[str, ...]:
    """A dotted path; `%2E` and `%24` inside a part stand for `.` and `$` of a key."""
    return tuple(part.replace("%2E", ".").replace("%24", "$") for part in name.split("."))


def _pattern(name: str, pattern: str, entity: Entity) -> Condition:
    column = entity.column(name)
    literal = Literal.read(pattern)
    if literal is not None and literal.starts and literal.ends and column is not None:
        return Condition(sql=column == literal.text)
    matches = matcher(pattern)
    path = path_of(name)
    return Condition(test=lambda doc: matches(_text(dig(doc, path))), needs=_needs(name))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Literal:
    """A regular expression that only spells a text out, perhaps anchored."""

    text: str
    starts: bool
    ends: bool

    @classmethod
    def read(cls, pattern: str) -> Literal | None:
        """Recognise such an expression; None for a real one."""
        starts = pattern.startswith("^")
        body = pattern[1:] if starts else pattern
        ends = body.endswith("$") and not body.endswith(r"\$")
        body = body[:-1] if ends else body
        text: list[str] = []
        characters = iter(body)
        for character in characters:
            if character == "\\":
                escaped = next(characters, "")
                if not escaped or escaped.isalnum():
                    return None
                text.append(escaped)
            elif character in ".^$*+?{}[]|()":
                return None
            else:
                text.append(character)
        return cls("".join(text), starts, ends)

    def matches(self, value: str) -> bool:
        """As `search` would."""
        match self.starts, self.ends:
            case True, True:
                return value == self.text
            case True, False:
                return value.startswith(self.text)
            case False, True:
                return value.endswith(self.text)
        return self.text in value


def matcher(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A search for this regular expression that gives up, with 400/21, when it takes too long altogether."""
    literal = None if ignore_case else Literal.read(pattern)
    if literal is not None:
        return literal.matches
    import regex

    if len(pattern) > LONGEST_PATTERN:
        raise errors.BAD_REGEX("pattern is too long", length=len(pattern))
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise errors.BAD_REGEX(str(error), pattern=pattern) from None
    spent = 0.0

    def matches(value: str) -> bool:
        nonlocal spent
        started = time.perf_counter()
        try:
            found = compiled.search(value, timeout=max(REGEX_BUDGET_SECONDS - spent, 0.001), concurrent=True)
        except TimeoutError:
            raise errors.BAD_REGEX("pattern takes too long to match", pattern=pattern) from None
        spent += time.perf_counter() - started
        return found is not None

    return matches


@dataclass(slots=True)
class Group:
    """What a list filter asks for; the parts are ANDed."""

    any_of: list[Any] = field(default_factory=list)
    all_of: list[Any] = field(default_factory=list)
    none_of: list[Any] = field(default_factory=list)
    or_empty: bool = False
    not_empty: bool = False

    @property
    def is_plain(self) -> bool:
        """Only inclusion or exclusion, as SQL says with IN."""
        return not self.all_of and not self.not_empty

    def matches(self, values: list[Any]) -> bool:
        """Whether a record with these values is wanted."""
        present = [value for value in values if value not in (None, "")]
        if any(value in present for value in self.none_of) or (self.not_empty and not present):
            return False
        if not all(value in present for value in self.all_of):
            return False
        if self.or_empty and not present:
            return True
        return any(value in present for value in self.any_of) if self.any_of or self.or_empty else True


_OPERATORS = {"__$all": "all", "__$and": "all", "__$any": "any", "__$or": "any", "__$nop": "any", "__$not": "not"}


def list_filter(name: str, value: Any) -> Group | None:
    """Read a list filter with its operators; None when it filters nothing (an empty list)."""
    values = value if isinstance(value, list) else [value]
    group, context, negate = Group(), "any", False
    for item in values:
        if isinstance(item, str) and item.startswith("__$"):
            operator = _OPERATORS.get(item)
            if operator is None:
                raise errors.BAD_QUERY_VALUE("unknown operator", field=name, value=item)
            if operator == "not":
                negate = True
            else:
                context, negate = operator, False
            continue
        if not isinstance(item, str | int | float | None):
            raise errors.VALIDATION("expected a list of values", field=name)
        if isinstance(item, str) and not negate and item.startswith("-"):
            group.none_of.append(item[1:])
        elif item is None:
            group.or_empty, group.not_empty = group.or_empty or not negate, group.not_empty or negate
        elif negate:
            group.none_of.append(item)
        else:
            (group.all_of if context == "all" else group.any_of).append(item)
        negate = False
    return group if values else None


def _list(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    group = list_filter(name, value)
    if group is None:
        return
    allowed = entity.choices.get(name)
    if allowed is not None:
        for wanted in (*group.any_of, *group.all_of, *group.none_of):
            if wanted not in allowed:
                raise errors.VALIDATION("unknown value", field=name, value=wanted)
    yield _group_condition(name, group, entity)


def _group_condition(name: str, group: Group, entity: Entity) -> Condition:
    column = entity.column(name)
    if column is not None and group.is_plain:
        return Condition(sql=_group_sql(column, group))
    path = path_of(name)
    return Condition(test=lambda doc: group.matches(values_at(doc, path)), needs=_needs(name))


def _group_sql(column: ColumnElement[Any], group: Group) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if group.any_of:
        included = column == group.any_of[0] if len(group.any_of) == 1 else column.in_(group.any_of)
        parts.append(sa.or_(included, column.is_(None)) if group.or_empty else included)
    elif group.or_empty:
        parts.append(column.is_(None))
    if group.none_of:
        parts.append(sa.or_(column.is_(None), column.not_in(group.none_of)))
    return sa.and_(sa.true(), *parts)


def _range(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    if not isinstance(value, list) or len(value) != 2:
        raise errors.VALIDATION("expected a list of two values", field=name)
    low, high = (_bound(name, end) for end in value)
    if low is None and high is None:
        return
    column = entity.column(name)
    if column is not None:
        parts = [column >= low] if low is not None else []
        yield Condition(sql=sa.and_(*parts, column <= high) if high is not None else sa.and_(*parts))
        return
    path = path_of(name)

    def inside(doc: Document) -> bool:
        found = dig(doc, path)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return False
        return (low is None or found >= low) and (high is None or found <= high)

    yield Condition(test=inside, needs=_needs(name))


def _bound(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return _date(name, value)
    raise errors.VALIDATION("expected a number or a date", field=name)


def _date(name: str, text: str) -> str:
    try:
        return clock.normalised(text)
    except (ValueError, OverflowError):
        raise errors.BAD_QUERY_VALUE("expected a date", field=name, value=text) from None


_COMPARISONS: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    (">=", lambda a, b: a >= b),
    ("<=", lambda a, b: a <= b),
    (">", lambda a, b: a > b),
    ("<", lambda a, b: a < b),
)


def date_bounds(name: str, value: Any) -> list[tuple[Callable[[Any, Any], Any], str]]:
    """Comparisons with dates: `[">=2026-01-01", ...]`, or exactly two plain dates as an inclusive range."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise errors.VALIDATION("expected a list of dates", field=name)
    plain = [text for text in texts if not text.startswith((">", "<"))]
    if plain:
        if len(plain) != 2 or len(texts) != 2:
            raise errors.BAD_QUERY_VALUE("expected two dates, or dates with an operator", field=name)
        texts = [f">={texts[0]}", f"<={texts[1]}"]
    bounds = []
    for text in texts:
        sign, compare = next((sign, compare) for sign, compare in _COMPARISONS if text.startswith(sign))
        bounds.append((compare, _date(name, text[len(sign) :].strip())))
    return bounds


def _dates(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    column = entity.column(name)
    for compare, bound in date_bounds(name, value):
        if column is not None:
            yield Condition(sql=compare(column, bound))
        else:
            path = path_of(name)
            yield Condition(test=_date_test(path, compare, bound), needs=_needs(name))


def _date_test(path: tuple[str, ...], compare: Callable[[Any, Any], Any], bound: str) -> Test:
    return lambda doc: bool((found := dig(doc, path)) and compare(found, bound))


def _equal(name: str, value: Any, entity: Entity) -> Condition:
    column = entity.column(name)
    if column is not None and isinstance(value, str | int | float | bool):
        return Condition(sql=column == value)
    path = path_of(name)
    return Condition(test=lambda doc: dig(doc, path) == value, needs=_needs(name))


def _multi(name: str, wanted: dict[str, Any], entity: Entity) -> Condition:
    names = wanted.get("fields")
    if not isinstance(names, list) or not names or not all(isinstance(item, str) for item in names):
        raise errors.VALIDATION("expected fields and a pattern or a datetime", field=name)
    for item in names:
        entity.require(item, "search")
    paths = [path_of(item) for item in names]
    test = _multi_test(name, wanted)
    combine = any if name in _ANY else all
    needs = frozenset(item.partition(".")[0] for item in names)
    return Condition(test=lambda doc: combine(test(values_at(doc, path)) for path in paths), needs=needs)


def _multi_test(name: str, wanted: dict[str, Any]) -> Callable[[list[Any]], bool]:
    if "pattern" in wanted:
        if not isinstance(wanted["pattern"], str):
            raise errors.VALIDATION("expected a string", field=f"{name}.pattern")
        matches = matcher(wanted["pattern"], ignore_case=True)
        return lambda values: any(matches(value) for value in values if isinstance(value, str))
    bounds = date_bounds(name, wanted.get("datetime"))
    return lambda values: any(value and all(compare(value, bound) for compare, bound in bounds) for value in values)


def _filters(wanted: dict[str, Any], entity: Entity) -> Iterable[Condition]:
    for name, rule in wanted.items():
        entity.require(name, "filter")
        if not isinstance(rule, dict):
            raise errors.VALIDATION("expected an object", field=f"filters.{name}")
        tests = [test for kind in ("any", "all") if (test := _filter_test(name, kind, rule.get(kind)))]
        if tests:
            combine = any if rule.get("op") == "or" else all
            yield Condition(test=_combined(path_of(name), tests, combine), needs=_needs(name))


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


def _search(text: str, entity: Entity) -> Condition:
    words = text.casefold().split()

    def found(doc: Document) -> bool:
        hay = " ".join(_text(doc.get(name)) for name in entity.search).casefold()
        return all(word in hay for word in words)

    return Condition(test=found, needs=entity.search)


def _needs(name: str) -> frozenset[str]:
    return frozenset({name.partition(".")[0]})


def _order(data: Fields, entity: Entity) -> tuple[tuple[str, bool], ...]:
    names = data.get("order_by", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise errors.VALIDATION("expected a list of strings", field="order_by")
    order = [(name.removeprefix("-"), name.startswith("-")) for name in names if name]
    for name, _descending in order:
        entity.require(name, "order_by")
    return tuple((name, descending) for name, descending in order if not name.startswith("@"))


def _projection(data: Fields, entity: Entity) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = data.get("only_fields", data.get("projection", []))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise errors.VALIDATION("expected a list of strings", field="only_fields")
    for name in names:
        entity.require(name.removeprefix("-"), "only_fields")
    only = tuple(name for name in names if not name.startswith("-"))
    return only, tuple(name[1:] for name in names if name.startswith("-"))


def _page(data: Fields, scroll: ScrollIds | None) -> tuple[int, int, bool]:
    """Offset, limit, and whether the caller scrolls."""
    if "size" in data:
        size = min(data.integer("size", least=1), MOST_PER_PAGE)
        if "start" in data:
            return data.integer("start", least=0), size, False
        return _scrolled_to(data, scroll), size, True
    if data.get("scroll_id"):
        raise errors.VALIDATION("missing required field: size", field="size")
    limit = min(data.integer("page_size", MOST_PER_PAGE, least=1), MOST_PER_PAGE)
    return data.integer("page", 0, least=0) * limit, limit, False


def _scrolled_to(data: Fields, scroll: ScrollIds | None) -> int:
    scroll_id = data.text_or("scroll_id", "")
    if not scroll_id or scroll is None or data.flag("refresh_scroll", False):
        return 0
    state = scroll.unpack(scroll_id)
    if state.get("query") != _shape(data) or not isinstance(state.get("offset"), int):
        raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id)
    return int(state["offset"])


# --- fetching ---


def fetch(tx: Session, entity: Entity, query: Query, *where: ColumnElement[bool]) -> list[Document]:
    """The page of records that a query asks for, projected."""
    conditions = (*where, *(condition.sql for condition in query.conditions if condition.sql is not None))
    tests = [condition for condition in query.conditions if condition.sql is None]
    order = _sql_order(entity, query.order)
    fields = _fields_to_load(entity, query)
    if not tests and order is not None:
        rows: Sequence[Row] = tx.all(
            _select(entity, fields, conditions).order_by(*order).offset(query.offset).limit(query.limit)
        )
    else:
        ids = _chosen_in_python(tx, entity, query, tests, conditions)
        rows = _in_order(tx.all(_select(entity, fields, [entity.table.c.id.in_(ids)])), ids) if ids else []
    return [project(entity.document(row, fields), query.only, query.without) for row in rows]


def count(tx: Session, entity: Entity, query: Query, *where: ColumnElement[bool]) -> int:
    """How many records a query matches, whatever the page."""
    conditions = (*where, *(condition.sql for condition in query.conditions if condition.sql is not None))
    tests = [condition for condition in query.conditions if condition.sql is None]
    if tests:
        return len(_matching(tx, entity, {"id"}, tests, conditions))
    statement = sa.select(sa.func.count()).select_from(entity.table).where(*conditions)
    return int(tx.value(statement))


def _fields_to_load(entity: Entity, query: Query) -> list[str]:
    if not query.only:
        return [name for name in entity.fields if name not in query.without]
    wanted = {"id", *(name.partition(".")[0] for name in query.only)}
    return [name for name in entity.fields if name in wanted]


def _select(entity: Entity, fields: Iterable[str], conditions: Iterable[ColumnElement[bool]]) -> sa.Select[Any]:
    fields = set(fields)
    columns = [column for name in entity.fields if name in fields for column in entity.fields[name]]
    used = {column.table.name for column in columns if isinstance(column, sa.Column)}
    statement = sa.select(*dict.fromkeys(columns)).select_from(entity.source(used))
    return statement.where(*conditions)


def _sql_order(entity: Entity, order: Sequence[tuple[str, bool]]) -> list[ColumnElement[Any]] | None:
    """The order in SQL, records without a value last; None when a path is not a plain column of the main table."""
    clauses: list[ColumnElement[Any]] = []
    for name, descending in order:
        column = entity.column(name)
        if column is None or getattr(column, "table", entity.table) is not entity.table:
            return None
        clauses += [column.is_(None), column.desc() if descending else column.asc()]
    if not clauses and "created" in entity.table.c:
        clauses.append(entity.table.c.created.asc())
    return [*clauses, entity.table.c.id.asc()]


def _chosen_in_python(
    tx: Session, entity: Entity, query: Query, tests: list[Condition], conditions: Iterable[ColumnElement[bool]]
) -> list[str]:
    fields = {"id", *(name.partition(".")[0] for name, _descending in query.order)}
    if "created" in entity.fields:
        fields.add("created")
    documents = _matching(tx, entity, fields, tests, conditions)
    documents.sort(key=lambda doc: (doc.get("created") or "", doc["id"]) if not query.order else doc["id"])
    for name, descending in reversed(query.order):
        _sort_by(documents, path_of(name), descending)
    return [doc["id"] for doc in documents[query.offset : query.offset + query.limit]]


def _matching(
    tx: Session, entity: Entity, fields: set[str], tests: list[Condition], conditions: Iterable[ColumnElement[bool]]
) -> list[Document]:
    load = fields.union(*(condition.needs for condition in tests)).intersection(entity.fields)
    documents = []
    for row in tx.execute(_select(entity, load, conditions)).mappings():
        document = entity.document(row, load)
        if all(condition.test(document) for condition in tests if condition.test):
            documents.append(document)
    return documents


def _sort_by(documents: list[Document], path: tuple[str, ...], descending: bool) -> None:
    """Stable; numbers before text; without a value last, whichever the direction."""
    present: list[tuple[Any, Document]] = []
    missing: list[Document] = []
    for document in documents:
        value = dig(document, path)
        if isinstance(value, int | float | str):
            present.append(((isinstance(value, str), value), document))
        else:
            missing.append(document)
    present.sort(key=lambda pair: pair[0], reverse=descending)
    documents[:] = [*(document for _value, document in present), *missing]


def _in_order(rows: Sequence[Row], ids: list[str]) -> list[Row]:
    by_id = {row["id"]: row for row in rows}
    return [by_id[record] for record in ids if record in by_id]


# --- documents ---


def dig(document: Any, path: Sequence[str]) -> Any:
    """The value at a path of dictionary keys, or None."""
    for part in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(part)
    return document


def values_at(document: Any, path: Sequence[str]) -> list[Any]:
    """All values at a path, through lists on the way and at its end; none is an empty list."""
    if isinstance(document, list):
        return [value for item in document for value in values_at(item, path)]
    if not path:
        return [] if document is None else [document]
    if not isinstance(document, Mapping):
        return []
    return values_at(document.get(path[0]), path[1:])


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
