"""Requests and envelopes: pure functions, so every rule of the transport is a line here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import errors, wire
from apiserver.endpoints import NEWEST
from apiserver.errors import ApiError
from apiserver.fields import Fields


@pytest.mark.parametrize(
    ("path", "name", "version", "requested"),
    [
        ("/tasks.get_all", "tasks.get_all", NEWEST, "2.34"),
        ("/v2.23/tasks.get_all", "tasks.get_all", (2, 23), "2.23"),
        ("/v2.5/tasks.get_all/", "tasks.get_all", (2, 5), "2.5"),
        ("/v2/tasks.get_all", "tasks.get_all", (2, 0), "2.0"),
        ("/v99.1/tasks.get_all", "tasks.get_all", NEWEST, "99.1"),
        ("/api/v2.23/tasks.get_all", "tasks.get_all", (2, 23), "2.23"),
        ("/_a._b", "_a._b", NEWEST, "2.34"),
    ],
)
def test_paths_are_taken_apart(path: str, name: str, version: tuple[int, int], requested: str) -> None:
    assert wire.parse_path(path) == wire.Path(name, version, requested)


@pytest.mark.parametrize(
    "path", ["/", "/tasks", "/v2.x/tasks.get_all", "/tasks.get_all/x", "/1tasks.get", "/a.b.c", "/v2.23"]
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ApiError, match=r"400/0: Invalid request path"):
        wire.parse_path(path)


def test_the_content_type_does_not_matter_for_a_json_body() -> None:
    for content_type in ("application/json", "", "text/plain", "application/x-www-form-urlencoded"):
        assert wire.parse_body(b'{"a": 1}', content_type, "") == {"a": 1}
    assert wire.parse_body(b"a=1&b=x", "application/x-www-form-urlencoded", "") == {"a": 1, "b": "x"}
    assert wire.parse_body(b"", "", "") == {}


@pytest.mark.parametrize("body", [b'{"task":', b"[1]", b'"x"', b"1", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused_and_closes_the_connection(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        wire.parse_body(body, "application/json", "")
    assert (refused.value.code, refused.value.subcode) == (400, 0)
    assert refused.value.headers == {"connection": "close"}


def test_query_arguments_are_merged_over_the_body() -> None:
    body = b'{"a": 1, "nested": {"x": 1, "y": 2}}'
    query = "a=2&nested.y=true&list=1&list=b&one[]=5&flag=False&text=v1.0"
    assert wire.parse_body(body, "application/json", query) == {
        "a": 2,
        "nested": {"x": 1, "y": True},
        "list": [1, "b"],
        "one": [5],
        "flag": False,
        "text": "v1.0",
    }


def test_query_arguments_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ApiError, match="400/0"):
        wire.parse_query("a=1&a.b=2")


def test_nan_becomes_null_unless_it_is_wanted() -> None:
    body = b'{"a": NaN, "b": [Infinity, -Infinity, 1.5]}'
    assert wire.parse_body(body, "", "") == {"a": None, "b": [None, None, 1.5]}
    kept = wire.parse_body(body, "", "", keep_nan=True)
    assert math.isnan(kept["a"])


def test_a_reply_never_says_nan() -> None:
    text = wire.to_bytes({"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5})
    assert json.loads(text) == {"a": None, "b": [None, {"c": None}], "d": 1.5}


def test_batches_skip_blank_lines_and_name_the_bad_one() -> None:
    assert wire.parse_batch(b'{"a":1}\n\n  \r\n{"b":2}') == [{"a": 1}, {"b": 2}]
    with pytest.raises(ApiError) as refused:
        wire.parse_batch(b'{"a":1}\nnonsense\n')
    assert (refused.value.code, refused.value.subcode) == (400, 18)
    assert refused.value.data["index"] == 1


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(VALUES, st.lists, max_leaves=9))
def test_any_value_can_be_put_on_the_wire(value: Any) -> None:
    json.loads(wire.to_bytes({"value": value}))


META = wire.Meta(id="i", trx="t", name="tasks.get_by_id", requested="2.23", actual="2.1")


def test_an_error_has_the_same_envelope_as_a_reply() -> None:
    error = errors.INVALID_TASK_ID(id="0", company="c")
    envelope = wire.error_reply(META, error)
    assert envelope["data"] == {}
    assert envelope["meta"] == {
        "id": "i",
        "trx": "t",
        "endpoint": {"name": "tasks.get_by_id", "requested_version": "2.23", "actual_version": "2.1"},
        "result_code": 400,
        "result_subcode": 101,
        "result_msg": "Invalid task id: id=0, company=c",
        "error_stack": None,
        "error_data": {"id": "0", "company": "c"},
    }
    assert set(wire.reply(META, {})["meta"]) == set(envelope["meta"])


def test_error_texts_show_details_and_lists() -> None:
    error = errors.INVALID_TASK_STATUS("Invalid status change", current_status="a", expected=["b", "c"])
    assert error.text == "Invalid task status (Invalid status change): current_status=a, expected=(b, c)"


@pytest.mark.parametrize(
    ("ask", "values"),
    [
        (lambda f: f.text("x"), [5, None, ["a"], True]),
        (lambda f: f.ident("x"), ["", 5, None]),
        (lambda f: f.flag("x", False), ["true", 1]),
        (lambda f: f.integer("x"), ["1", 1.5, True, None]),
        (lambda f: f.integer("x", least=1), [0, -1]),
        (lambda f: f.number("x"), ["1", True, None]),
        (lambda f: f.strings("x"), ["a", [1]]),
        (lambda f: f.idents("x"), [None, [], [1], "a"]),
        (lambda f: f.mapping("x"), [[], "a"]),
        (lambda f: f.objects("x"), [{}, ["a"]]),
        (lambda f: f.one_of("x", frozenset({"a"})), ["b", 1, None]),
    ],
)
def test_fields_of_the_wrong_type_are_refused_by_name(ask: Any, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ApiError) as refused:
            ask(Fields({"x": value}))
        assert (refused.value.code, refused.value.subcode) == (400, 12)
        assert refused.value.data["field"] == "x"


def test_null_counts_as_absent() -> None:
    data = Fields({"x": None})
    assert "x" not in data
    assert data.text_or("x", "default") == "default"
    assert data.integer("x", 7) == 7
    assert data.strings("x") == []
