"""The task's bytes become the lines a terminal would show, however the pipe cut them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.executor.fold import Folder

LIMIT = 16  # stands for 256 KiB, so that small inputs reach every branch

writings = st.binary(max_size=120) | st.lists(
    st.sampled_from(
        [b"a", b"bc", b"\n", b"\r", b"\r\n", b"\xe2\x82\xac", b"\xe2", b"\xac", b"\xff", "ä".encode(), b"x" * 17, b"\t"]
    ),
    max_size=40,
).map(b"".join)


def all_lines(chunks: list[bytes], *, fold_returns: bool = True, longest: int = LIMIT) -> list[str]:
    folder = Folder(longest=longest, fold_returns=fold_returns)
    return [line for chunk in chunks for line in folder.feed(chunk, 0.0)] + folder.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(writings, st.lists(st.integers(0, 120)), st.booleans())
def test_the_lines_do_not_depend_on_how_the_pipe_was_cut(data: bytes, places: list[int], fold_returns: bool) -> None:
    whole = all_lines([data], fold_returns=fold_returns)
    assert all_lines(cut(data, places), fold_returns=fold_returns) == whole
    single = [data[i : i + 1] for i in range(len(data))]
    assert all_lines(single, fold_returns=fold_returns) == whole


@given(writings, st.lists(st.integers(0, 120)))
def test_plain_lines_arrive_as_they_were_written(data: bytes, places: list[int]) -> None:
    data = data.replace(b"\r", b"")
    expected = data.decode("utf-8", "replace").split("\n")
    lines = all_lines(cut(data, places), longest=1000)
    assert lines == (expected if expected[-1] else expected[:-1])


@given(writings, st.lists(st.integers(0, 120)))
def test_no_line_holds_a_line_break(data: bytes, places: list[int]) -> None:
    for line in all_lines(cut(data, places)):
        assert "\n" not in line
        assert "\r" not in line


@given(st.text(min_size=1, max_size=200).filter(lambda text: not set(text) & {"\n", "\r"}), st.integers(8, 40))
def test_a_line_that_is_too_long_is_cut_between_characters(text: str, longest: int) -> None:
    pieces = all_lines([text.encode("utf-8", "replace") + b"\n"], longest=longest)
    assert "".join(pieces) == text.encode("utf-8", "replace").decode()
    assert all(len(piece.encode()) <= longest for piece in pieces)


def test_a_progress_bar_ends_as_its_last_state() -> None:
    assert all_lines([b"\r 10%", b"\r 50%\r", b"100%\n", b"done\n"]) == ["100%", "done"]


def test_a_bar_that_is_wiped_at_its_end_keeps_what_it_showed_last() -> None:
    assert all_lines([b"90%\r100%\r\r\n"]) == ["100%"]


def test_carriage_return_and_line_feed_are_one_line_end() -> None:
    assert all_lines([b"one\r\ntwo\r", b"\nthree\n\r\n"]) == ["one", "two", "three", ""]


def test_ten_thousand_updates_are_two_lines_when_they_take_a_moment() -> None:
    folder = Folder(progress_seconds=5.0)
    lines: list[str] = []
    for number in range(10_000):
        lines += folder.feed(b"\rstep %d" % number, number / 1600)
        lines += folder.progress(number / 1600, settled=False)
    lines += folder.feed(b"\n", 6.3)
    assert len(lines) == 2
    assert lines[-1] == "step 9999"
    assert lines[0].startswith("step ")


def test_an_update_that_is_still_being_written_is_not_recorded() -> None:
    folder = Folder(progress_seconds=5.0)
    folder.feed(b"\rstep 1\rst", 0.0)
    assert folder.progress(6.0, settled=False) == ["step 1"]
    folder.feed(b"ep 2", 6.1)
    assert folder.progress(12.0) == ["step 2"]
    assert folder.progress(18.0) == []


def test_the_last_state_is_not_recorded_twice_when_the_line_ends() -> None:
    folder = Folder(progress_seconds=5.0)
    folder.feed(b"\r100%", 0.0)
    assert folder.progress(6.0) == ["100%"]
    assert folder.feed(b"\nnext\n", 7.0) == ["next"]


def test_it_says_when_an_unfinished_bar_is_to_be_looked_at_again() -> None:
    folder = Folder(progress_seconds=5.0)
    assert folder.due(0.0) is None
    folder.feed(b"a prompt: ", 0.0)
    assert folder.due(3.0) is None
    folder.feed(b"\rbar", 3.0)
    assert folder.due(3.0) == 2.0


def test_a_prompt_is_held_until_the_end() -> None:
    folder = Folder()
    assert folder.feed(b"continue? ", 0.0) == []
    assert folder.progress(100.0) == []
    assert folder.close() == ["continue? "]
    assert folder.close() == []


def test_without_folding_every_update_is_a_line() -> None:
    assert all_lines([b"\r1%\r", b"2%\r3%\n"], fold_returns=False) == ["1%", "2%", "3%"]
    assert all_lines([b"a\r", b"\nb\r\n"], fold_returns=False) == ["a", "b"]


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert all_lines([b"caf\xe9\n\xf0\x9f\x98", b"\x80 \xf0\x9f\n"]) == ["caf\ufffd", "\U0001f600 \ufffd"]


def test_memory_of_a_line_without_end_is_bounded() -> None:
    folder = Folder(longest=1000)
    pieces = [line for _ in range(1000) for line in folder.feed(b"x" * 100, 0.0)]
    assert sum(map(len, pieces)) + len(folder.close()[0]) == 100_000
    folder.feed(b"y" * 10 + b"\r", 0.0)
    for _ in range(1000):
        assert folder.feed(b"y" * 10 + b"\r", 0.0) == []
    assert folder.close() == ["y" * 10]
