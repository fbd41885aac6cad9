"""No secret leaves by the log, whatever way it came in."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.logs import Redactor, current_redactor, level_for, set_up_logging

SECRET = 'pa"ss wörd\\1'


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    yield
    logging.captureWarnings(False)
    root.handlers[:], level, sys.excepthook, threading.excepthook = before
    root.setLevel(level)


def logged(*args: Any, json_lines: bool = False, program: str = "", **kwargs: Any) -> str:
    stream = io.StringIO()
    set_up_logging(secrets=[SECRET, "plain-secret"], json_lines=json_lines, program=program, stream=stream)
    logging.getLogger("agent.test").warning(*args, **kwargs)
    return stream.getvalue()


@pytest.mark.parametrize("json_lines", [False, True])
def test_secret_is_hidden_in_message_argument_extra_and_traceback(json_lines: bool) -> None:
    try:
        raise ValueError(f"refused: {SECRET}")
    except ValueError:
        text = logged(
            "a plain-secret and %r and %s",
            SECRET,
            {"password": SECRET},
            extra={"action": "login", "detail": {"inner": [SECRET]}},
            exc_info=True,
            json_lines=json_lines,
        )
    assert "ValueError: refused: ***" in text
    assert "wörd" not in text
    assert "w\\u00f6rd" not in text
    assert "plain-secret" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:word@host/x", "https://***@host/x"),
        ("git+https://ghp_token@host/x", "git+https://***@host/x"),
        ("https://u:p@ss@host/x?q=a@b", "https://***@host/x?q=a@b"),
        ("ssh://git@host/x and git@host:x", "ssh://git@host/x and git@host:x"),
        ("ssh://git:word@host/x", "ssh://***@host/x"),
        ("http://host/path?mail=a@b", "http://host/path?mail=a@b"),
        ("Authorization: Basic QUFBQUFBQTo=", "Authorization: Basic ***"),
        ("Bearer eyJhbGciOi.e30.sig", "Bearer ***"),
        ("Basic training", "Basic ***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_credentials_in_urls_and_headers_are_hidden_without_being_told(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


def test_url_encoded_form_is_hidden() -> None:
    assert Redactor(["a/b c"])("GET /?key=a%2Fb%20c") == "GET /?key=***"


def test_longer_secret_is_hidden_whole_where_a_shorter_one_is_its_beginning() -> None:
    assert Redactor(["abcd", "abcdefgh"])("abcdefgh abcd") == "*** ***"


@given(
    st.text("0123456789", min_size=4, max_size=12),
    st.text("abc :/@%\"'", max_size=20),
    st.text("abc :/@%", max_size=20),
)
def test_secret_is_hidden_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    assert secret not in Redactor([secret])(before + secret + after)


def test_redactor_without_secrets_leaves_text_alone() -> None:
    assert Redactor(["", ""])("text") == "text"


def test_text_line_names_level_logger_and_action() -> None:
    line = logged("task %s taken", "t1", extra={"action": "claim"})
    assert line.endswith(" WARNING agent.test [claim] task t1 taken\n")


def test_command_line_is_short() -> None:
    assert logged("careful", program="clearml_agent") == "clearml_agent: WARNING: careful\n"


def test_json_line_has_what_extra_gave() -> None:
    entry = json.loads(logged("taken", extra={"action": "claim", "task": "t1", "size": 3}, json_lines=True))
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "WARNING",
        "logger": "agent.test",
        "message": "taken",
        "action": "claim",
        "task": "t1",
        "size": 3,
    }


def test_current_redactor_is_that_of_the_last_set_up() -> None:
    set_up_logging(secrets=["one-secret"], stream=io.StringIO())
    assert current_redactor()("one-secret") == "***"
    set_up_logging(secrets=["two-secret"], stream=io.StringIO(), json_lines=True)
    assert current_redactor()("one-secret two-secret") == "one-secret ***"


@pytest.mark.parametrize(
    ("name", "level"), [("debug", 10), ("INFO", 20), ("warn", 30), ("Warning", 30), ("critical", 50), ("loud", 20)]
)
def test_levels_are_read_in_any_case(name: str, level: int) -> None:
    assert level_for(name) == level


@pytest.mark.parametrize(
    "crash",
    ["raise ValueError(secret)", "t = threading.Thread(target=lambda: 1 / len(secret[:0])); t.start(); t.join()"],
)
def test_exception_that_nobody_caught_is_logged_without_secrets(crash: str) -> None:
    program = (
        f"import threading, agent.logs as logs; secret = 'top-secret'; logs.set_up_logging(secrets=[secret]); {crash}"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr
    assert "CRITICAL agent [crash] internal error" in said
    assert "Traceback" in said
    assert "top-secret" not in said


def test_python_warnings_are_logged() -> None:
    program = "import warnings, agent.logs as logs; logs.set_up_logging(secrets=['hush']); warnings.warn('hush now')"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr
    assert "WARNING py.warnings" in said
    assert "*** now" in said
