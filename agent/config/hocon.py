"""Reading HOCON, the language of `clearml.conf`: plain files at once, all others with pyhocon.

pyhocon takes 0.2 s to import and 0.15 s for a file of ordinary size, which is more than all the rest of
`clearml-agent execute` takes. Nearly every file is plain, though: comments, nested objects, lists, numbers and
strings. `read_plain` reads exactly that, by one pass of regular expressions, and gives up (`NotPlain`) at the first
character that could mean anything else: a substitution, an include, `+=`, an escape, a triple quote, two words in a
row. So it never has to judge what a file means or why it is wrong; pyhocon does both.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agent.errors import ConfigError

Json = dict[str, Any]

_SKIP = re.compile(r"(?:[ \t\r\n,]|(?:#|//)[^\n]*)*")
_BLANKS = re.compile(r"[ \t\r]*")
_KEY = re.compile(r'(?:"([A-Za-z0-9_-]+)"|([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*))[ \t]*(?:[:=][ \t]*|(?=\{))')
_QUOTED = re.compile(r'"(?!"")([^"\\\n$]*)"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?(?![^\s,\]}]|[ \t\r]+\Z)")
_WORD = re.compile(
    r"https?://[A-Za-z0-9_.:/-]*[A-Za-z0-9_/-]|(?:[A-Za-z_~]|/(?!/))[A-Za-z0-9_.~-]*(?:/[A-Za-z0-9_.~-]+)*",
)
_END = re.compile(r"[ \t\r]*(?=[\n,\]}]|\Z)|[ \t]+(?=#|//)")
_CONSTANTS = {"true": True, "false": False, "null": None}
_ALMOST_CONSTANTS = re.compile(r"true|false|null|(?:yes|no|on|off|none|include)$", re.IGNORECASE)


class NotPlain(Exception):
    """The text holds something that only the full parser can judge."""


def parse(text: str, *, source: str, folder: str | None = None) -> Json:
    """Parse one file or one value's worth of HOCON into plain dictionaries; ConfigError names `source` and line."""
    try:
        return read_plain(text)
    except NotPlain:
        found = read_json(text)
        return read_with_pyhocon(text, source=source, folder=folder) if found is None else found


def read_json(text: str) -> Json | None:
    """The object that a JSON text is, or None. JSON is HOCON, but pyhocon does not know its `\\u00fc`."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        found: Json = json.loads(text)
    except ValueError:
        return None
    return found


def parse_value(text: str, *, source: str) -> Any:
    """Parse one value, as a variable holds it; a text that is no HOCON stands for itself."""
    try:
        return parse(f"value: {text}", source=source).get("value")
    except ConfigError:
        return text


def read_plain(text: str) -> Json:
    """Parse text in the plain part of HOCON, or raise NotPlain without saying what is wrong with it."""
    root: Json = {}
    at = _skip(text, 0)
    if text.startswith("{", at):
        at = _skip(text, _fields(text, at + 1, root) + 1)
    else:
        at = _fields(text, at, root, closing="")
    if at != len(text):
        raise NotPlain
    return root


def merge(below: Json, above: Json) -> Json:
    """`above` laid over `below`: objects are merged, anything else is replaced. Neither argument is changed."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def read_with_pyhocon(text: str, *, source: str, folder: str | None = None) -> Json:
    """Parse any HOCON, including substitutions from the environment and includes relative to `folder`."""
    from pyhocon import ConfigFactory, ConfigTree
    from pyhocon.exceptions import ConfigException
    from pyparsing import ParseBaseException

    try:
        tree = ConfigFactory.parse_string(text, basedir=folder)
    except ParseBaseException as error:
        raise ConfigError(
            f"{source}, line {error.lineno}: {_expectation(error)}",
            hint="Look for a missing quote, brace or comma there or just above.",
        ) from error
    except (ConfigException, RecursionError) as error:
        raise ConfigError(f"{source}: {_one_line(str(error))}") from error
    if not isinstance(tree, ConfigTree):
        raise ConfigError(f"{source}: holds a list where sections are expected")
    plain: Json = _plain(tree)
    return plain


def _skip(text: str, at: int) -> int:
    found = _SKIP.match(text, at)
    return found.end() if found else at


def _fields(text: str, at: int, into: Json, *, closing: str = "}") -> int:
    """Read `key: value` pairs up to the closing brace (or the end) and return where that is."""
    while True:
        at = _skip(text, at)
        if (text[at : at + 1] or "") == closing:
            return at
        found = _KEY.match(text, at)
        if not found:
            raise NotPlain
        path = [found[1]] if found[1] else found[2].split(".")
        value, at = _value(text, found.end())
        at = _ended(text, at)
        _put(into, path, value)


def _value(text: str, at: int) -> tuple[Any, int]:
    start = text[at : at + 1]
    if start == "{":
        inner: Json = {}
        return inner, _fields(text, at + 1, inner) + 1
    if start == "[":
        return _list(text, at + 1)
    if found := _QUOTED.match(text, at):
        return found[1], found.end()
    if found := _NUMBER.match(text, at):
        return (float(found[0]) if found[1] else int(found[0])), found.end()
    if found := _WORD.match(text, at):
        word = found[0]
        if word in _CONSTANTS:
            return _CONSTANTS[word], found.end()
        if not _ALMOST_CONSTANTS.match(word) and "//" not in word.partition("://")[2]:
            return word, found.end()
    raise NotPlain


def _list(text: str, at: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    while True:
        at = _skip(text, at)
        if text.startswith("]", at):
            return values, at + 1
        value, at = _value(text, at)
        at = _ended(text, at)
        values.append(value)


def _ended(text: str, at: int) -> int:
    """A value ends with its line, a comma or the bracket around it; a second one behind it is not plain."""
    found = _END.match(text, at)
    if not found:
        raise NotPlain
    return found.end()


def _put(into: Json, path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = into.get(name)
        if not isinstance(inner, dict):
            inner = into[name] = {}
        into = inner
    known = into.get(path[-1])
    into[path[-1]] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    from pyhocon.config_tree import NoneValue

    if isinstance(value, dict):
        return {_unquoted(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, NoneValue) else value


def _unquoted(key: str) -> str:
    return key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key


def _expectation(error: Any) -> str:
    line = error.line.strip()
    return f"cannot read {line[:60]!r}" if line else "the text ends too early"


def _one_line(text: str) -> str:
    return " ".join(text.split())
