"""Files on the disk: whole or not at all, and never anybody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.errors import AgentError, ConfigError
from supervisor_gen import state
from supervisor_gen.emitters.base import MARK
from supervisor_gen.model import File
from supervisor_gen.writer import compare, files_on_disk, refuse_foreign, remove_files, unified_diff, write_files

OURS = f"{MARK} from topology.conf, line 1; changes here are lost.\n"
PATH = "etc/units/a.service.d/agent.conf"


def test_files_are_written_with_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_files(tmp_path, {PATH: File(OURS), "etc/secret.env": File(OURS, 0o600)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / PATH).stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "etc/secret.env").stat().st_mode) == 0o600
    assert files_on_disk(tmp_path, ["etc/*.env"]) == {"etc/secret.env": File(OURS, 0o600)}


def test_nothing_is_left_beside_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "etc/name").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot write"):
        write_files(tmp_path, {"etc/name": File(OURS)})
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["name"]


def test_files_of_others_are_neither_seen_nor_overwritten(tmp_path: Path) -> None:
    target = tmp_path / PATH
    target.parent.mkdir(parents=True)
    target.write_text("[Service]\n")
    assert files_on_disk(tmp_path, ["etc/units/*/agent.conf"]) == {}
    with pytest.raises(ConfigError, match="was not made by supervisor-gen"):
        refuse_foreign(tmp_path, [PATH])


@pytest.mark.parametrize("to", ["/etc/passwd", "nowhere"])
def test_a_link_in_the_place_of_a_file_is_not_ours(tmp_path: Path, to: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/a.conf").symlink_to(to)
    assert files_on_disk(tmp_path, ["etc/*.conf"]) == {}
    with pytest.raises(ConfigError):
        refuse_foreign(tmp_path, ["etc/a.conf"])


def test_a_drop_in_folder_goes_with_its_last_file_and_stays_with_somebody_elses(tmp_path: Path) -> None:
    other = "etc/units/b.service.d/agent.conf"
    write_files(tmp_path, {PATH: File(OURS), other: File(OURS)})
    (tmp_path / "etc/units/b.service.d/mine.conf").write_text("[Service]\n")
    remove_files(tmp_path, [PATH, other])
    assert not (tmp_path / "etc/units/a.service.d").exists()
    assert [path.name for path in (tmp_path / "etc/units/b.service.d").iterdir()] == ["mine.conf"]


def test_a_difference_names_what_is_added_changed_and_stale() -> None:
    before = {"a": File("1"), "b": File("1"), "c": File("1")}
    after = {"b": File("2"), "c": File("1"), "d": File("1")}
    found = compare(before, after)
    assert (found.added, found.changed, found.stale) == (("d",), ("b",), ("a",))
    assert not compare(before, before)


def test_a_diff_shows_options_and_hides_what_the_topology_sets() -> None:
    text = f"{OURS}CLEARML_AGENT_OPTIONS='--queue {{}}'\nHF_TOKEN={{}}\n"
    before = {"a.env": File(text.format("one", "hf_old"), 0o600)}
    after = {"a.env": File(text.format("two", "hf_new"), 0o600)}
    shown = "\n".join(unified_diff(before, after))
    assert "-CLEARML_AGENT_OPTIONS='--queue one'" in shown
    assert "hf_" not in shown


def test_a_diff_tells_that_something_hidden_changes() -> None:
    before, after = ({"a.env": File(f"{OURS}HF_TOKEN={value}\n", 0o600)} for value in ("hf_old", "hf_new"))
    assert list(unified_diff(before, after)) == ["a.env: values that are not shown change"]


def test_names_are_kept_from_one_apply_to_the_next(tmp_path: Path) -> None:
    assert state.names_of(tmp_path) == {}
    state.save(tmp_path, {"gpu0": ("GPU-0",), "services": ()}, {"gpus": []})
    assert state.names_of(tmp_path) == {"gpu0": ("GPU-0",), "services": ()}
    state.save(tmp_path, {"gpu0": ("GPU-0",)}, None)
    assert state.inventory_file(tmp_path).read_text() == '{"gpus":[]}'


@pytest.mark.parametrize("content", ["", "{", "[]", '{"agents": 3}'])
def test_damaged_names_are_an_error_and_not_forgotten(tmp_path: Path, content: str) -> None:
    file = tmp_path / state.FOLDER / "agents.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"agents\.json"):
        state.names_of(tmp_path)


def test_two_applies_do_not_work_at_once(tmp_path: Path) -> None:
    with state.locked(tmp_path), pytest.raises(AgentError, match="another"), state.locked(tmp_path):
        raise AssertionError("both have the lock")
    with state.locked(tmp_path):
        assert (tmp_path / state.FOLDER / "lock").exists()
