"""What the hand-written units have to say for agents to start, to be restarted, and to keep to their own folders.

Each of these was seen to go wrong on a booted host when the line in question was missing.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from supervisor_gen.emitters.systemd import drop_in_text, units_folder
from supervisor_gen.model import AgentSettings, Place, PlannedAgent

UNITS = units_folder()


def values_of(text: str, key: str) -> list[str]:
    """What a unit has after `key`, line by line; an empty assignment takes back what was before it."""
    values: list[str] = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and name == key:
            values = [*values, *value.split()] if value else []
    return values


@pytest.fixture
def template() -> str:
    return (UNITS / "clearml-agent@.service").read_text()


@pytest.fixture
def of_another_user(template: str) -> str:
    """The template with the drop-in of an agent that runs as somebody else."""
    settings = AgentSettings(queues=("train",), user="alice")
    return template + drop_in_text(PlannedAgent(name="gpu0", place=Place("topology.conf", 1), settings=settings))


def test_a_boot_does_not_wait_for_agents_whose_server_is_away(template: str) -> None:
    assert values_of(template, "TimeoutStartSec") == ["infinity"]
    assert "clearml-agents.target" in values_of(template, "After")


def test_an_agent_of_another_user_gets_no_folder_of_the_others(of_another_user: str) -> None:
    """systemd gives a StateDirectory= with all that is in it to the user of the unit."""
    folders = values_of(of_another_user, "StateDirectory")
    assert folders == ["clearml-agent-alice", "clearml-agent-alice/tmp", "clearml-agent-alice/tmp/%i"]
    assert {mount.partition(":")[0] for mount in values_of(of_another_user, "BindPaths")} == {
        "/var/lib/clearml-agent-alice/tmp/%i"
    }


def test_folders_of_another_user_are_closed_to_everybody_else(of_another_user: str) -> None:
    """An empty StateDirectory= takes the mode back as well."""
    after_the_reset = of_another_user.rpartition("StateDirectory=\n")[2]
    assert values_of(after_the_reset, "StateDirectoryMode") == ["0700"]


def test_no_folder_of_root_lies_between_those_of_the_user(template: str) -> None:
    """systemd makes parents that are not named for root, and systemd-tmpfiles does not enter these."""
    folders = values_of(template, "StateDirectory")
    assert all(folder.rpartition("/")[0] in (*folders, "") for folder in folders)


def test_both_temporary_folders_are_where_a_restart_leaves_them(template: str) -> None:
    kept = "/var/lib/clearml-agent/tmp/%i"
    assert values_of(template, "BindPaths") == [f"{kept}:/tmp", f"{kept}:/var/tmp"]


def test_an_agent_without_its_configuration_is_not_started_over_and_over(template: str) -> None:
    assert values_of(template, "RestartPreventExitStatus") == ["2", "3", "5", "7", "CREDENTIALS"]


def shim(root: Path) -> str:
    """The boot-time shim with everything that it looks at below `root`."""
    text = (UNITS / "clearml-agents-generator").read_text()
    for folder in ("/etc/", "/var/", "/opt/", "/dev/kmsg"):
        text = text.replace(folder, f"{root}{folder}")
    return text


def touch(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A host with a topology and a saved inventory, whose supervisor-gen notes how it was called."""
    touch(tmp_path / "etc/gpufleet/topology.conf")
    touch(tmp_path / "var/lib/gpufleet/inventory.json")
    (tmp_path / "dev").mkdir()
    program = touch(tmp_path / "opt/gpufleet/current/bin/supervisor-gen", f'#!/bin/sh\necho "$@" >{tmp_path}/called\n')
    program.chmod(0o755)
    return tmp_path


def run_shim(root: Path, path: str = "/usr/bin:/bin") -> int:
    command = ["/bin/sh", "-c", shim(root), "clearml-agents", "normal", "early", "late"]
    return subprocess.run(command, env={"PATH": path}, check=False, timeout=60, capture_output=True).returncode


def test_shim_makes_units_from_the_saved_inventory(image: Path) -> None:
    assert run_shim(image) == 0
    assert (image / "called").read_text() == "emit --boot normal\n"


@pytest.mark.parametrize("missing", ["etc/gpufleet/topology.conf", "var/lib/gpufleet/inventory.json"])
def test_shim_does_nothing_where_there_is_nothing_to_plan_from(image: Path, missing: str) -> None:
    (image / missing).unlink()
    assert run_shim(image) == 0
    assert not (image / "called").exists()


def test_shim_starts_no_program_at_all_where_etc_has_the_units(image: Path) -> None:
    """It runs at every daemon-reload: `PATH` is empty here, so anything it called by name would show as a message."""
    touch(image / "etc/systemd/system/clearml-agents.target.d/agents.conf")
    assert run_shim(image, path="") == 0
    assert not (image / "called").exists()


def test_a_boot_goes_on_and_the_kernel_log_says_why_when_the_shim_fails(image: Path) -> None:
    touch(image / "opt/gpufleet/current/bin/supervisor-gen", "#!/bin/sh\necho no such host; exit 7\n")
    assert run_shim(image) == 0
    assert (image / "dev/kmsg").read_text() == "clearml-agents-generator: no such host\n"
