"""Project names are paths."""

import pytest

from apiserver.project_names import (
    MalformedNameError,
    ShortNameError,
    TooDeepError,
    ancestors_of,
    basename_of,
    clean_name,
    location_of,
    renamed_below,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc", "abc"),
        ("  abc ", "abc"),
        ("/a/b/cde/", "a/b/cde"),
        ("a / bcd", "a/bcd"),
        ("日本語/プロジェ", "日本語/プロジェ"),
    ],
)
def test_names_are_trimmed(given, kept):
    assert clean_name(given) == kept


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", MalformedNameError),
        ("/", MalformedNameError),
        ("a//bcd", MalformedNameError),
        ("a/ /bcd", MalformedNameError),
        ("ab", ShortNameError),
        ("long enough/ab", ShortNameError),
        ("/".join(["abc"] * 11), TooDeepError),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name, problem):
    with pytest.raises(problem):
        clean_name(name)


def test_the_parts_of_a_name():
    assert basename_of("a/b/cde") == "cde"
    assert location_of("a/b/cde") == "a/b"
    assert location_of("cde") == ""
    assert list(ancestors_of("a/b/cde")) == ["a", "a/b"]
    assert list(ancestors_of("cde")) == []


def test_what_is_below_a_renamed_project_is_renamed_with_it():
    assert renamed_below("old/one/two", "old/one", "new") == "new/two"
    assert renamed_below("old/one", "old/one", "new") == "new"
