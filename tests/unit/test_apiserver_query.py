"""The query language of `*.get_all`: what it accepts, what it refuses, and that SQL and Python agree on the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support.apiserver_store import Store, open_store

from apiserver.errors import ApiError
from apiserver.fields import Fields
from apiserver.query import Literal, fetch, list_filter, matcher, parse, patterns, project, values_at
from apiserver.scroll import ScrollIds
from apiserver.store import tasks
from apiserver.store.schema import task as task_table
from apiserver.store.schema import task_metrics
from apiserver.store.tasks import TASKS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as opened:
        yield opened


def ask(store: Store, **request: Any) -> list[dict[str, Any]]:
    parsed = parse(Fields(request), TASKS)
    return store.do(lambda tx: fetch(tx, TASKS, parsed))


def named(store: Store, **request: Any) -> list[str]:
    return [found["name"] for found in ask(store, only_fields=["name"], **request)]


def refusal(**request: Any) -> tuple[int, int]:
    with pytest.raises(ApiError) as refused:
        parse(Fields(request), TASKS)
    return refused.value.code, refused.value.subcode


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^plain$", ["plain"]),
        ("plain", ["plain", "plain and more"]),
        ("^plain", ["plain", "plain and more"]),
        ("more$", ["plain and more"]),
        (r"^a\.b\-c\ d$", ["a.b-c d"]),
        ("^p.*n$", ["plain"]),
        ("PLAIN", []),
        ("(?i)PLAIN$", ["plain"]),
        ("^(plain|a.b-c d)$", ["a.b-c d", "plain"]),
    ],
)
def test_names_match_as_a_regular_expression_search(store: Store, pattern: str, expected: list[str]) -> None:
    for name in ("plain", "plain and more", "a.b-c d"):
        store.task(name=name)
    assert sorted(named(store, name=pattern)) == expected


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        ("^abc$", Literal("abc", True, True)),
        ("abc", Literal("abc", False, False)),
        (r"^a\.b$", Literal("a.b", True, True)),
        (r"^cost\$", Literal("cost$", True, False)),
        ("^a.b$", None),
        (r"^a\d$", None),
        ("a|b", None),
        ("^$", Literal("", True, True)),
    ],
)
def test_patterns_that_only_spell_a_text_out_are_recognised(pattern: str, literal: Literal | None) -> None:
    assert Literal.read(pattern) == literal


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_an_escaped_text_matches_exactly_itself(text: str, other: str) -> None:
    import re

    matches = matcher(f"^{re.escape(text)}$")
    assert matches(text)
    assert matches(other) is (other == text)


def test_a_bad_pattern_is_refused_by_its_own_code() -> None:
    assert refusal(name="(unclosed") == (400, 21)


def test_a_pattern_that_explodes_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "REGEX_BUDGET_SECONDS", 0.05)
    store.task(name="a" * 60)
    with pytest.raises(ApiError, match="400/21"):
        ask(store, name="^(a|a|aa)+$b")


# --- lists


@pytest.mark.parametrize(
    ("wanted", "tags", "matches"),
    [
        (["a"], ["a", "b"], True),
        (["a", "c"], ["c"], True),
        (["a"], [], False),
        (["-a"], ["b"], True),
        (["-a"], ["a", "b"], False),
        (["b", "-a"], ["a", "b"], False),
        ([None], [], True),
        ([None], ["a"], False),
        ([None, "a"], ["a"], True),
        (["__$not", None], [], False),
        (["__$not", None], ["x"], True),
        (["__$all", "a", "b"], ["a", "b", "c"], True),
        (["__$all", "a", "b"], ["a"], False),
        (["__$and", "a", "__$not", "archived"], ["a"], True),
        (["__$all", "dataset", "__$not", "archived"], ["dataset", "archived"], False),
        (["__$all", "a", "__$any", "b", "c"], ["a", "c"], True),
        (["__$all", "a", "__$any", "b", "c"], ["a"], False),
        (["__$all", "a", "__$nop", "b"], ["a", "b"], True),
        (["__$not", "-dash"], ["-dash"], False),
    ],
)
def test_list_filters_combine_inclusion_exclusion_and_operators(
    wanted: list[Any], tags: list[str], matches: bool
) -> None:
    group = list_filter("tags", wanted)
    assert group is not None
    assert group.matches(list(tags)) is matches


def test_an_empty_list_filters_nothing(store: Store) -> None:
    store.task()
    assert len(ask(store, id=[])) == 1
    assert list_filter("id", []) is None


def test_list_filters_say_the_same_in_sql_and_in_python(store: Store) -> None:
    parents = [None, "a" * 32, "b" * 32]
    for number, parent in enumerate(parents):
        task = store.task(name=f"task {number}")
        store.do(
            lambda tx, t=task, p=parent: tx.execute(sa.update(task_table).where(task_table.c.id == t).values(parent=p))
        )
    values = [parents[1], f"-{parents[1]}", None]
    requests: list[list[Any]] = [[a] for a in values] + [[a, b] for a in values for b in values]
    for wanted in requests:
        group = list_filter("parent", wanted)
        assert group is not None
        in_python = sorted(f"task {n}" for n, parent in enumerate(parents) if group.matches([parent]))
        assert sorted(named(store, parent=wanted)) == in_python, wanted


def test_unknown_operators_and_statuses_are_refused() -> None:
    assert refusal(tags=["__$xor", "a"]) == (400, 16)
    assert refusal(status=["no_such_status"]) == (400, 12)
    assert refusal(tags=[{"a": 1}]) == (400, 12)


def test_a_hyper_parameter_is_found_by_its_path(store: Store) -> None:
    params = {"Args": {"a.b": {"section": "Args", "name": "a.b", "value": "1"}}}
    store.task(name="with", hyperparams=params)
    store.task(name="without")
    assert named(store, **{"hyperparams.Args.a%2Eb.value": ["1"]}) == ["with"]


def test_a_task_is_found_by_the_model_it_starts_from(store: Store) -> None:
    store.task(name="with", models={"input": [{"name": "x", "model": "m1"}], "output": []})
    store.task(name="without")
    assert named(store, **{"models.input.model": ["m1"]}) == ["with"]


# --- ranges, dates, equality, combinations


def test_ranges_are_inclusive_and_may_be_open(store: Store) -> None:
    for number in range(4):
        task = store.task(name=f"task {number}")
        store.do(lambda tx, t=task, n=number: tasks.touch_by_events(tx, t, iteration=n))
    assert sorted(named(store, last_iteration=[1, 2])) == ["task 1", "task 2"]
    assert sorted(named(store, last_iteration=[None, 1])) == ["task 0", "task 1"]
    assert sorted(named(store, last_iteration=[3, None])) == ["task 3"]
    assert refusal(last_iteration=[1]) == (400, 12)


def test_dates_are_compared_with_operators_or_as_a_range(store: Store) -> None:
    store.task(name="early")
    store.moment += 3600
    store.task(name="late")
    at = "2027-01-15T08:30:00"
    assert named(store, status_changed=[f">={at}"]) == ["late"]
    assert named(store, status_changed=[f"<{at}"]) == ["early"]
    assert len(named(store, last_update=["2027-01-15", "2027-01-16"])) == 2
    assert refusal(last_update=["yesterday", "today"]) == (400, 16)
    assert refusal(last_update=[">=never"]) == (400, 16)


def test_runtime_is_compared_for_equality(store: Store) -> None:
    store.task(name="one", runtime={"version": "1"})
    store.task(name="two", runtime={"version": "2"})
    assert named(store, **{"runtime.version": "2"}) == ["two"]


def test_any_and_all_search_several_fields_whatever_the_case(store: Store) -> None:
    store.task(name="Alpha", comment="beta")
    store.task(name="gamma", comment="alpha beta")
    assert sorted(named(store, _any_={"fields": ["name", "comment"], "pattern": "ALPHA"})) == ["Alpha", "gamma"]
    assert named(store, _all_={"fields": ["name", "comment"], "pattern": "a$"}) != []
    assert refusal(_any_={"pattern": "x"}) == (400, 12)
    assert refusal(_any_={"fields": ["nothing"], "pattern": "x"}) == (400, 14)


def test_filters_combine_any_and_all(store: Store) -> None:
    store.task(name="both", tags=["a", "b"])
    store.task(name="one", tags=["a"])
    assert named(store, filters={"tags": {"all": {"include": ["a", "b"]}}}) == ["both"]
    assert sorted(named(store, filters={"tags": {"any": {"include": ["a"]}}})) == ["both", "one"]
    assert named(store, filters={"tags": {"any": {"include": ["a"]}, "all": {"exclude": ["b"]}}}) == ["one"]


def test_search_text_looks_for_words_in_name_id_and_comment(store: Store) -> None:
    store.task(name="red apple", comment="sweet")
    store.task(name="green apple", comment="sour")
    assert named(store, search_text="APPLE sour") == ["green apple"]


# --- order, pages, scrolls


def with_metric(store: Store, name: str, value: float | None) -> None:
    task = store.task(name=name)
    if value is not None:
        metrics = {"m": {"v": {"value": value}}}
        store.do(
            lambda tx: tx.execute(sa.update(task_metrics).where(task_metrics.c.id == task).values(last_metrics=metrics))
        )


def test_metrics_are_ordered_as_numbers_and_tasks_without_one_come_last_either_way(store: Store) -> None:
    for name, value in (("ten", 10.0), ("nine", 9.5), ("none", None), ("minus", -1.0)):
        with_metric(store, name, value)
    assert named(store, order_by=["last_metrics.m.v.value"]) == ["minus", "nine", "ten", "none"]
    assert named(store, order_by=["-last_metrics.m.v.value"]) == ["ten", "nine", "minus", "none"]


def test_order_in_sql_puts_records_without_a_value_last(store: Store) -> None:
    for name in ("bbb", "aaa", "ccc"):
        store.task(name=name, **({"comment": name} if name != "aaa" else {}))
    assert named(store, order_by="comment") == ["bbb", "ccc", "aaa"]
    assert named(store, order_by=["-comment", "name"]) == ["ccc", "bbb", "aaa"]


def test_pages_do_not_overlap_and_end(store: Store) -> None:
    made = {store.task(name=f"task {number}") for number in range(7)}
    seen = [found["id"] for page in range(4) for found in ask(store, page=page, page_size=3, order_by=["name"])]
    assert len(seen) == 7
    assert set(seen) == made


def test_the_same_page_comes_from_sql_and_from_python(store: Store) -> None:
    for number in range(9):
        store.task(name=f"task {number}", tags=["x"])
    for page in range(3):
        plain = ask(store, page=page, page_size=4, only_fields=["name"])
        filtered = ask(store, page=page, page_size=4, only_fields=["name"], tags=["x"])
        assert plain == filtered


def test_scrolling_reaches_everything_once(store: Store) -> None:
    made = {store.task(name=f"task {number}") for number in range(7)}
    ids = ScrollIds()
    ids.open("a secret")
    seen: list[str] = []
    scroll_id: str | None = None
    while True:
        request = {"size": 3} | ({"scroll_id": scroll_id} if scroll_id else {})
        parsed = parse(Fields(request), TASKS, scroll=ids)
        page = store.do(lambda tx, parsed=parsed: fetch(tx, TASKS, parsed))
        scroll_id = parsed.next_scroll_id(ids, len(page))
        if not page:
            break
        seen += [found["id"] for found in page]
    assert len(seen) == 7
    assert set(seen) == made


def test_a_scroll_id_of_another_query_or_of_nobody_is_refused() -> None:
    ids = ScrollIds()
    ids.open("a secret")
    first = parse(Fields({"size": 3, "tags": ["a"]}), TASKS, scroll=ids).next_scroll_id(ids, 3)
    for request in ({"size": 3, "tags": ["b"], "scroll_id": first}, {"size": 3, "scroll_id": "bm9uc2Vuc2U="}):
        with pytest.raises(ApiError, match="400/1104"):
            parse(Fields(request), TASKS, scroll=ids)


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"page": -1}, (400, 12)),
        ({"page_size": 0}, (400, 12)),
        ({"page": "one"}, (400, 12)),
        ({"scroll_id": "x"}, (400, 12)),
        ({"order_by": ["no_such_field"]}, (400, 14)),
        ({"only_fields": ["no.such"]}, (400, 14)),
        ({"order_by": [1]}, (400, 12)),
        ({"only_fields": {"a": 1}}, (400, 12)),
    ],
)
def test_what_cannot_be_understood_is_refused(request_fields: dict[str, Any], code: tuple[int, int]) -> None:
    assert refusal(**request_fields) == code


def test_a_page_never_holds_more_than_the_cap() -> None:
    assert parse(Fields({"page_size": 10_000}), TASKS).limit == 500
    assert parse(Fields({}), TASKS).limit == 500


# --- projection


def test_containers_on_the_way_exist_even_when_the_leaf_does_not(store: Store) -> None:
    store.task()
    (found,) = ask(store, only_fields=["runtime.version", "last_metrics.a.b"])
    assert found["runtime"] == {}
    assert found["last_metrics"] == {"a": {}}
    assert set(found) == {"id", "runtime", "last_metrics"}


def test_a_minus_leaves_fields_out(store: Store) -> None:
    store.task(name="the name")
    (found,) = ask(store, only_fields=["-script", "-models.input"])
    assert "script" not in found
    assert found["models"] == {"output": []}
    assert found["name"] == "the name"


def test_a_path_leads_through_lists() -> None:
    document = {"id": "1", "models": {"input": [{"model": "a", "name": "x"}, {"model": "b"}]}}
    assert values_at(document, ("models", "input", "model")) == ["a", "b"]
    assert project(document, ["models.input.model"]) == {
        "id": "1",
        "models": {"input": [{"model": "a"}, {"model": "b"}]},
    }


def test_a_shorter_path_includes_what_a_longer_one_asks_for() -> None:
    document = {"id": "1", "script": {"diff": "d", "binary": "python"}}
    assert project(document, ["script", "script.diff"]) == document
    assert project(document, ["script.diff", "script"]) == document


def test_unset_fields_are_left_out_rather_than_null(store: Store) -> None:
    store.task()
    (found,) = ask(store)
    assert None not in found.values()
    assert found["execution"] == {"artifacts": []}
    assert found["models"] == {"input": [], "output": []}
