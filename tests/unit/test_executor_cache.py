"""Layers are built once, shared, kept while in use, and rebuilt when somebody has touched them."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.executor import wait_until
from support.layers import FILES, Layers

from agent.executor.cache import Built, key_for, seal, signature
from agent.process.stop import StopSignal


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    with StopSignal() as signals:
        yield signals


@pytest.fixture
def place(tmp_path: Path, stop: StopSignal) -> Layers:
    return Layers(tmp_path / "cache", stop)


def test_the_second_use_builds_nothing(place: Layers) -> None:
    first, second = place.use(), place.use()
    assert (first.is_new, second.is_new, place.builds) == (True, False, 1)
    assert first.folder == second.folder
    assert second.frozen == ("package==1.0",)
    assert second.files == FILES


def test_keys_say_what_differs() -> None:
    assert key_for(["a"], "b") == key_for(["a"], "b")
    assert key_for(["a"], "b") != key_for(["a", "b"])
    assert key_for("1") != key_for(1)


def test_a_layer_cannot_be_written_to(place: Layers) -> None:
    layer = Path(place.use().folder)
    for path in [layer / "lib/package", layer / "lib/package/code.py"]:
        assert path.stat().st_mode & 0o222 == 0
    assert (layer / "lib/package/__pycache__").stat().st_mode & stat.S_IWUSR


def test_compiled_files_do_not_count_as_a_change(place: Layers) -> None:
    layer = Path(place.use().folder)
    (layer / "lib/package/__pycache__/code.cpython-311.pyc").write_text("x")
    assert not place.use().is_new


@pytest.mark.parametrize("change", ["replace", "add", "remove", "folder"])
def test_a_layer_that_was_changed_is_built_anew(place: Layers, change: str) -> None:
    package = Path(place.use().folder) / "lib/package"
    package.chmod(0o755)
    match change:
        case "replace":
            (package / "new").write_text("evil = 1\n")
            (package / "new").rename(package / "code.py")
        case "add":
            (package / "more.py").write_text("")
        case "remove":
            (package / "code.py").unlink()
        case "folder":
            (package / "sub").mkdir()
    assert place.use().is_new
    assert (package / "code.py").read_text() == "build = 2\n"
    assert "was changed" in " ".join(place.notes)
    assert not place.use().is_new


def test_a_file_written_in_place_is_noticed_where_permissions_did_not_forbid_it(place: Layers) -> None:
    code = Path(place.use().folder) / "lib/package/code.py"
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            code.write_text("evil = 1\n")
        return
    code.write_text("evil = 1\n")
    assert place.use().is_new
    assert code.read_text() == "build = 2\n"


def test_a_failed_build_leaves_nothing(place: Layers) -> None:
    def fail(folder: str) -> Built:
        place.build(folder)
        raise RuntimeError("no such package")

    with pytest.raises(RuntimeError), place.cache.open("k", fail):
        pass
    assert place.names() == set()
    assert place.building() == []
    assert place.use().is_new


def test_the_least_recently_used_layer_goes_first(tmp_path: Path, stop: StopSignal) -> None:
    place = Layers(tmp_path, stop, max_entries=3)
    for number, key in enumerate("abc"):
        os.utime(place.use(key).folder, (number, number))
    os.utime(place.use("a").folder)
    place.use("d")
    assert place.names() == {"a", "c", "d"}


def test_a_layer_in_use_is_never_removed(tmp_path: Path, stop: StopSignal) -> None:
    place, other = Layers(tmp_path, stop, max_entries=1), Layers(tmp_path, stop, max_entries=1)
    with place.cache.open("a", place.build) as layer:
        other.use("b")
        other.use("c")
        assert Path(layer.folder, "lib/package/code.py").exists()
    assert place.names() == {"a", "c"}


def test_a_full_disk_costs_at_most_half_of_the_layers(tmp_path: Path, stop: StopSignal) -> None:
    place = Layers(tmp_path, stop, max_entries=100)
    for number, key in enumerate("abcdef"):
        os.utime(place.use(key).folder, (number, number))
    tight = Layers(tmp_path, stop, max_entries=100, free_space_threshold_gb=1e9)
    tight.use("g")
    assert place.names() == {"d", "e", "f", "g"}


@contextlib.contextmanager
def second_agent(mode: str, cache: Path, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "support.layers", mode, str(cache), str(file)], env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_a_builder_that_is_killed_leaves_only_what_the_next_one_removes(place: Layers, tmp_path: Path) -> None:
    with second_agent("slow", place.asked, tmp_path / "started"):
        wait_until((tmp_path / "started").exists)
        assert place.names() == set()
    assert len(place.building()) == 2
    assert place.use().is_new
    assert place.building() == []
    assert not place.use().is_new


def test_several_at_once_build_once(place: Layers, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        agents = [stack.enter_context(second_agent("count", place.asked, tmp_path / "log")) for _ in range(3)]
        assert [agent.wait(30) for agent in agents] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_the_signature_does_not_depend_on_where_a_layer_lies(tmp_path: Path) -> None:
    (tmp_path / "a/lib").mkdir(parents=True)
    (tmp_path / "a/lib/x.py").write_text("1")
    seal(str(tmp_path / "a"))
    before = [signature(str(tmp_path / "a"), files=files) for files in (True, False)]
    (tmp_path / "a").rename(tmp_path / "b")
    assert [signature(str(tmp_path / "b"), files=files) for files in (True, False)] == before


def test_folders_alone_tell_what_was_added_removed_or_replaced(place: Layers) -> None:
    folder = Path(place.use().folder)
    before = signature(str(folder), files=False)
    package = folder / "lib/package"
    package.chmod(0o755)
    (package / "new.py").write_text("")
    assert signature(str(folder), files=False) != before
