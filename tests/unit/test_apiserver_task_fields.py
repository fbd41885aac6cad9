"""Task fields: what is merged, what is replaced, what is refused, and the old spellings."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver import task_fields
from apiserver.errors import ApiError
from apiserver.fields import Fields


def edited(known: dict[str, Any], **request: Any) -> dict[str, Any]:
    return task_fields.for_edit(Fields(request), known)


def test_script_execution_and_output_are_merged_one_level_deep() -> None:
    known = {
        "script": {"binary": "python", "diff": "old"},
        "execution": {"framework": "x", "artifacts": [], "queue": "q"},
        "output": {"destination": "d"},
    }
    changes = edited(known, script={"diff": "new"}, execution={"model_desc": {"a": 1}}, output={"error": "e"})
    assert changes["script"] == {"binary": "python", "diff": "new"}
    assert changes["execution"] == {"framework": "x", "artifacts": [], "model_desc": {"a": 1}}
    assert changes["output"] == {"destination": "d", "error": "e"}


def test_other_dictionaries_replace_what_was_there() -> None:
    known = {"runtime": {"a": 1}, "container": {"image": "old"}, "hyperparams": {"Args": {}}}
    changes = edited(known, runtime={"b": 2}, container={"arguments": "-v"}, hyperparams={})
    assert changes == {"runtime": {"b": 2}, "container": {"arguments": "-v"}, "hyperparams": {}}


def test_a_diff_keeps_its_bytes_and_other_texts_are_stripped() -> None:
    changes = edited({}, script={"diff": "  line\n\n", "entry_point": " main.py \n", "requirements": {"pip": "a\n"}})
    assert changes["script"] == {"diff": "  line\n\n", "entry_point": "main.py", "requirements": {"pip": "a\n"}}


def test_parameters_carry_their_section_and_name_and_text_values() -> None:
    changes = edited({}, hyperparams={"Args": {"lr": {"value": 0.1, "type": "float"}, "on": {"value": True}}})
    assert changes["hyperparams"]["Args"] == {
        "lr": {"section": "Args", "name": "lr", "value": "0.1", "type": "float"},
        "on": {"section": "Args", "name": "on", "value": "True"},
    }


@pytest.mark.parametrize(
    "request_fields",
    [
        {"hyperparams": {"": {"a": {"value": "1"}}}},
        {"hyperparams": {"Args": {"": {"value": "1"}}}},
        {"hyperparams": {"Args": {"a": {"value": [1]}}}},
        {"hyperparams": {"Args": 5}},
        {"configuration": {"": {"value": "x"}}},
        {"configuration": {"a": "x"}},
        {"container": {"image": 5}},
        {"runtime": {"a": {"b": 1}}},
        {"script": {"diff": 5}},
        {"script": {"requirements": {"pip": 5}}},
        {"tags": "a"},
        {"type": "Training!"},
        {"execution": {"artifacts": [{"type": "x"}]}},
        {"execution": {"artifacts": [{"key": "k", "type": "x", "mode": "both"}]}},
        {"models": {"input": [{"name": "x"}]}},
    ],
)
def test_what_would_make_a_reply_unreadable_is_refused(request_fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="400/12"):
        edited({}, **request_fields)


def test_short_names_are_refused_and_names_are_trimmed() -> None:
    with pytest.raises(ApiError, match="400/800"):
        edited({}, name=" ab ")
    assert edited({}, name="  abc ")["name"] == "abc"


def test_artifacts_come_as_a_list_or_by_key_and_get_a_mode() -> None:
    item = {"key": "k", "type": "dict", "uri": None, "content_size": 5, "unknown": 1}
    stored = {"key": "k", "type": "dict", "mode": "output", "content_size": 5}
    assert task_fields.artifacts_of([item]) == [stored]
    assert task_fields.artifacts_of({"whatever": item}) == [stored]


def test_artifacts_are_merged_by_key_and_mode_and_never_dropped() -> None:
    old = [{"key": "a", "mode": "output", "uri": "1"}, {"key": "b", "mode": "output"}]
    new = [{"key": "a", "mode": "output", "uri": "2"}, {"key": "a", "mode": "input"}]
    assert task_fields.merged_artifacts(old, new) == [new[0], old[1], new[1]]


def test_parameters_can_be_set_one_by_one_by_section_or_altogether() -> None:
    known = {"A": {"x": {"name": "x"}, "y": {"name": "y"}}, "B": {"z": {"name": "z"}}}
    new = [{"section": "A", "name": "x", "value": "1"}]
    keys = {mode: task_fields.with_params(known, new, replace=mode) for mode in ("none", "section", "all")}
    assert {mode: {s: sorted(v) for s, v in found.items()} for mode, found in keys.items()} == {
        "none": {"A": ["x", "y"], "B": ["z"]},
        "section": {"A": ["x"], "B": ["z"]},
        "all": {"A": ["x"]},
    }


def test_parameters_are_deleted_by_name_or_by_section() -> None:
    known = {"A": {"x": {}, "y": {}}, "B": {"z": {}}}
    keys = [Fields({"section": "A", "name": "x"}), Fields({"section": "B"})]
    assert task_fields.without_params(known, keys) == {"A": {"y": {}}}


def test_old_spellings_are_understood() -> None:
    execution = {
        "docker_cmd": "image:1 -v /a:/b",
        "model": "m1",
        "parameters": {"lr": "1", "TF_DEFINE/batch": "2"},
        "queue": "ignored",
    }
    changes = edited({}, execution=execution)
    assert changes["container"] == {"image": "image:1", "arguments": "-v /a:/b"}
    assert changes["models"] == {"input": [{"name": "input", "model": "m1"}]}
    assert changes["hyperparams"]["Args"]["lr"]["type"] == "legacy"
    assert changes["hyperparams"]["TF_DEFINE"]["batch"]["value"] == "2"
    assert changes["execution"] == {}


def test_old_clients_get_the_mirrors_they_look_for() -> None:
    task = {
        "execution": {"artifacts": []},
        "container": {"image": "image:1", "arguments": "-v /a:/b"},
        "models": {"input": [{"name": "x", "model": "m1"}], "output": [{"name": "y", "model": "m2"}]},
        "output": {},
        "tags": ["a"],
        "system_tags": ["b"],
        "hyperparams": {"Args": {"lr": {"value": "1", "type": "legacy"}, "new": {"value": "2"}}},
    }
    assert task_fields.for_old_client(task, (2, 13)) is task
    old = task_fields.for_old_client(task, (2, 5))
    assert old["execution"]["docker_cmd"] == "image:1 -v /a:/b"
    assert old["execution"]["model"] == "m1"
    assert old["execution"]["parameters"] == {"lr": "1"}
    assert old["output"] == {"model": "m2"}
    assert "parameters" not in task_fields.for_old_client(task, (2, 9))["execution"]
    assert task_fields.for_old_client(task, (2, 2))["tags"] == ["a", "b"]
    assert task["execution"] == {"artifacts": []}
