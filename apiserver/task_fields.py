"""Task fields as clients send them, checked and brought into the one form that is stored.

Pure: request fields in, a dictionary of stored fields out. `execution`, `script`, `output` and `models` are merged into
what the task has, one level deep; every other dictionary replaces it. Old spellings (parameters, `docker_cmd`, a single
model) are understood on input and never stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import errors
from .fields import Fields
from .query import Document

SHORTEST_NAME = 3
PROPERTIES = "properties"

_TYPE = re.compile(r"[a-z_]{1,40}")
_SCRIPT_DEFAULTS = {"binary": "python", "repository": "", "entry_point": "", "working_dir": "."}
_TEXTS = ("comment", "parent", "project", "report")
_EXECUTION = ("model_desc", "model_labels", "framework", "test_split", "dataviews")
_LEGACY_SECTION = "Args"
_TF_PREFIX = "TF_DEFINE/"


def for_create(data: Fields) -> Document:
    """The stored fields of a new task."""
    data.text("name")
    changes = for_edit(data, {})
    changes["script"] = _SCRIPT_DEFAULTS | changes.get("script", {})
    return changes


def for_edit(data: Fields, known: Mapping[str, Any]) -> Document:
    """The stored fields that a request changes, given those the task has."""
    changes: Document = {}
    for name, read in _READERS.items():
        if name in data:
            changes[name] = read(data, known)
    if "output_dest" in data:
        output = changes.get("output", known.get("output", {}))
        changes["output"] = {**output, "destination": data.text("output_dest")}
    if "execution" in data:
        _old_spellings(data.mapping("execution"), changes, known)
    return changes


def for_update(data: Fields, known: Mapping[str, Any]) -> Document:
    """The few fields that may change whatever the status is."""
    names = ("name", "tags", "system_tags", "comment", "project")
    changes = {name: _READERS[name](data, known) for name in names if name in data}
    if "status_message" in data:
        changes["status_message"] = data.text("status_message")
    if "output__error" in data:
        changes["output"] = {**known.get("output", {}), "error": data.text("output__error")}
    return changes


# --- simple fields ---


def name_in(data: Fields, field: str = "name") -> str:
    """A name: trimmed, and not too short."""
    name = data.text(field).strip()
    if len(name) < SHORTEST_NAME:
        raise errors.DATA_VALIDATION("name is too short", field=field, least=SHORTEST_NAME)
    return name


def tags_in(data: Fields, field: str = "tags") -> list[str]:
    """Tags, each once, in order."""
    return sorted({tag for tag in data.strings(field) if tag})


def _type(data: Fields) -> str:
    kind = data.text("type")
    if not _TYPE.fullmatch(kind):
        raise errors.VALIDATION("unknown task type", field="type", value=kind)
    return kind


def container_in(data: Fields, field: str = "container") -> Document:
    """Texts only: clients refuse a null in here."""
    container = {key: value for key, value in data.mapping(field).items() if value is not None}
    for key, value in container.items():
        if not isinstance(value, str):
            raise errors.VALIDATION("expected a string", field=f"{field}.{key}")
    return container


def runtime_in(data: Fields, field: str = "runtime") -> Document:
    """Scalars by name."""
    runtime = data.mapping(field)
    for key, value in runtime.items():
        if not isinstance(value, str | int | float | bool | None):
            raise errors.VALIDATION("expected a scalar", field=f"{field}.{key}")
    return {key: value for key, value in runtime.items() if value is not None}


def _text_reader(field: str) -> Callable[[Fields, Mapping[str, Any]], str | None]:
    return lambda data, _known: data.text(field) or None


def _output(data: Fields, known: Mapping[str, Any]) -> Document:
    output = {key: value for key, value in data.mapping("output").items() if key in {"destination", "error", "result"}}
    return {**known.get("output", {}), **{key: value for key, value in output.items() if value is not None}}


# --- script ---


def _script(data: Fields, known: Mapping[str, Any]) -> Document:
    script: Document = {}
    for key, value in data.mapping("script").items():
        if key == "requirements":
            script[key] = requirements_of(value)
        elif value is None:
            continue
        elif not isinstance(value, str):
            raise errors.VALIDATION("expected a string", field=f"script.{key}")
        else:
            script[key] = value if key == "diff" else value.strip()  # a diff must keep its bytes
    return {**known.get("script", {}), **script}


def requirements_of(value: Any) -> Document:
    """Requirements per package manager: a text, or a list of lines."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise errors.VALIDATION("expected an object", field="requirements")
    for key, text in value.items():
        is_lines = isinstance(text, list) and all(isinstance(line, str) for line in text)
        if text is not None and not isinstance(text, str) and not is_lines:
            raise errors.VALIDATION("expected a string or a list of strings", field=f"requirements.{key}")
    return {key: text for key, text in value.items() if text is not None}


# --- parameters and configuration ---


def _hyperparams(data: Fields, _known: Mapping[str, Any]) -> Document:
    sections: Document = {}
    for section, params in data.mapping("hyperparams").items():
        if not isinstance(params, dict):
            raise errors.VALIDATION("expected an object", field=f"hyperparams.{section}")
        sections[_key(section, "section")] = {
            _key(name, "name"): _param(section, name, value) for name, value in params.items()
        }
    return sections


def _param(section: str, name: str, value: Any) -> Document:
    if not isinstance(value, dict):
        raise errors.VALIDATION("expected an object", field=f"hyperparams.{section}.{name}")
    item = _item(value, ("value", "type", "description"), f"hyperparams.{section}.{name}")
    return {"section": section, "name": name, **item}


def _configuration(data: Fields, _known: Mapping[str, Any]) -> Document:
    items: Document = {}
    for name, value in data.mapping("configuration").items():
        if not isinstance(value, dict):
            raise errors.VALIDATION("expected an object", field=f"configuration.{name}")
        item = _item(value, ("value", "type", "description"), f"configuration.{name}")
        items[_key(name, "name")] = {"name": name, **item}
    return items


def _item(value: Mapping[str, Any], names: Iterable[str], field: str) -> Document:
    item: Document = {}
    for name in names:
        found = value.get(name)
        if isinstance(found, bool | int | float):
            item[name] = str(found)
        elif isinstance(found, str):
            item[name] = found
        elif found is not None:
            raise errors.VALIDATION("expected a string", field=f"{field}.{name}")
    return item


def _key(key: str, what: str) -> str:
    if not key:
        raise errors.VALIDATION(f"empty {what}", field=what)
    return key


def param_items(items: Sequence[Fields]) -> list[Document]:
    """`[{section, name, value, ...}]` of the hyper-parameter endpoints."""
    params = []
    for item in items:
        section, name = item.ident("section"), item.ident("name")
        params.append(_param(section, name, dict(item)))
    return params


def configuration_items(items: Sequence[Fields]) -> list[Document]:
    """`[{name, value, ...}]` of the configuration endpoints."""
    return [
        {"name": item.ident("name"), **_item(item, ("value", "type", "description"), "configuration")} for item in items
    ]


def with_params(known: Document, params: Iterable[Document], *, replace: str) -> Document:
    """Parameters after an edit: `none` keeps what is not named, `section` clears the sections named, `all`
    everything."""
    params = list(params)
    if replace == "all":
        known = {}
    elif replace == "section":
        known = {key: value for key, value in known.items() if key not in {param["section"] for param in params}}
    sections = {section: dict(values) for section, values in known.items()}
    for param in params:
        sections.setdefault(param["section"], {})[param["name"]] = param
    return sections


def without_params(known: Document, keys: Iterable[Fields]) -> Document:
    """Parameters after a deletion; a key without a name deletes its section."""
    sections = {section: dict(values) for section, values in known.items()}
    for key in keys:
        section, name = key.ident("section"), key.text_or("name", "")
        if name:
            sections.get(section, {}).pop(name, None)
        else:
            sections.pop(section, None)
    return {section: values for section, values in sections.items() if values}


# --- execution and models ---


def _execution(data: Fields, known: Mapping[str, Any]) -> Document:
    sent = data.mapping("execution")
    stored = {key: value for key, value in known.get("execution", {}).items() if key != "queue"}
    execution = {key: sent[key] for key in _EXECUTION if sent.get(key) is not None}
    if sent.get("artifacts") is not None:
        execution["artifacts"] = artifacts_of(sent["artifacts"])
    return {**stored, **execution}


def artifacts_of(value: Any) -> list[Document]:
    """Artifacts as a list, whichever form they were sent in; each has a key, a type and a mode."""
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise errors.VALIDATION("expected a list of objects", field="artifacts")
    return [_artifact(Fields(item)) for item in items]


def _artifact(item: Fields) -> Document:
    artifact: Document = {"key": item.ident("key"), "type": item.text("type"), "mode": item.text_or("mode", "output")}
    if artifact["mode"] not in {"input", "output"}:
        raise errors.VALIDATION("unknown value", field="mode", value=artifact["mode"])
    for name in ("uri", "hash"):
        if name in item:
            artifact[name] = item.text(name)
    for name in ("content_size", "timestamp"):
        if name in item:
            artifact[name] = item.integer(name)
    if "type_data" in item:
        artifact["type_data"] = {key: value for key, value in item.mapping("type_data").items() if value is not None}
    if "display_data" in item:
        artifact["display_data"] = item.listing("display_data")
    return artifact


def merged_artifacts(known: Iterable[Document], new: Iterable[Document]) -> list[Document]:
    """Artifacts after an upload: matching (key, mode) replaced, the others kept, as parallel processes send partial
    lists."""
    merged = {(item["key"], item["mode"]): item for item in known}
    merged.update({(item["key"], item["mode"]): item for item in new})
    return list(merged.values())


def _models(data: Fields, known: Mapping[str, Any]) -> Document:
    sent = data.mapping("models")
    models = {**known.get("models", {})}
    for side in ("input", "output"):
        if sent.get(side) is not None:
            models[side] = [_model_reference(item, f"models.{side}") for item in Fields(sent).objects(side)]
    return models


def _model_reference(item: Fields, field: str) -> Document:
    if "model" not in item or "name" not in item:
        raise errors.VALIDATION("missing required field: name, model", field=field)
    return {key: item.text(key) for key in ("name", "model", "updated") if key in item}


def with_model(known: Sequence[Document], name: str, model: str, updated: str) -> list[Document]:
    """A list of models after one was set by name; the order is the order added."""
    reference = {"name": name, "model": model, "updated": updated}
    if any(item["name"] == name for item in known):
        return [reference if item["name"] == name else item for item in known]
    return [*known, reference]


# --- old spellings ---


def _old_spellings(execution: Mapping[str, Any], changes: Document, known: Mapping[str, Any]) -> None:
    command = execution.get("docker_cmd")
    if isinstance(command, str) and "container" not in changes:
        image, _, arguments = command.strip().partition(" ")
        changes["container"] = {**known.get("container", {}), "image": image, "arguments": arguments.strip()}
    model = execution.get("model")
    if isinstance(model, str) and model and "models" not in changes:
        models = known.get("models", {})
        changes["models"] = {**models, "input": [{"name": "input", "model": model}, *models.get("input", [])[1:]]}
    parameters = execution.get("parameters")
    if isinstance(parameters, dict) and "hyperparams" not in changes:
        params = [_legacy_param(name, value) for name, value in parameters.items()]
        changes["hyperparams"] = with_params(known.get("hyperparams", {}), params, replace="none")


def _legacy_param(name: str, value: Any) -> Document:
    text = "" if value is None else str(value)
    if name.startswith(_TF_PREFIX):
        short = name.removeprefix(_TF_PREFIX)
        return {"section": "TF_DEFINE", "name": short, "value": text, "type": "legacy"}
    return {"section": _LEGACY_SECTION, "name": name, "value": text, "type": "legacy"}


def for_old_client(task: Document, version: tuple[int, int]) -> Document:
    """The mirrors that clients of an old API version look for; nothing changes from 2.13 on."""
    if version >= (2, 13):
        return task
    result = dict(task)
    models, container = task.get("models", {}), task.get("container", {})
    execution = dict(task["execution"]) if "execution" in task else None
    if execution is not None and container.get("image"):
        execution["docker_cmd"] = f"{container['image']} {container.get('arguments', '')}".strip()
    if execution is not None and models.get("input"):
        execution["model"] = models["input"][0]["model"]
    if execution is not None and version < (2, 9):
        execution["parameters"] = _legacy_params(task.get("hyperparams", {}))
    if execution is not None:
        result["execution"] = execution
    if "output" in task and models.get("output"):
        result["output"] = {**task["output"], "model": models["output"][-1]["model"]}
    if version < (2, 3) and "tags" in task:
        result["tags"] = sorted({*task["tags"], *task.get("system_tags", [])})
    return result


def _legacy_params(hyperparams: Document) -> Document:
    return {
        (f"{_TF_PREFIX}{name}" if section == "TF_DEFINE" else name): item.get("value", "")
        for section, items in hyperparams.items()
        for name, item in items.items()
        if item.get("type") == "legacy"
    }


_READERS: dict[str, Callable[[Fields, Mapping[str, Any]], Any]] = {
    "name": lambda data, _known: name_in(data),
    "type": lambda data, _known: _type(data),
    "tags": lambda data, _known: tags_in(data),
    "system_tags": lambda data, _known: tags_in(data, "system_tags"),
    **{name: _text_reader(name) for name in _TEXTS},
    "report_assets": lambda data, _known: data.strings("report_assets"),
    "script": _script,
    "hyperparams": _hyperparams,
    "configuration": _configuration,
    "container": lambda data, _known: container_in(data),
    "runtime": lambda data, _known: runtime_in(data),
    "output": _output,
    "execution": _execution,
    "models": _models,
}
