"""The file that holds an agent is the same one for who writes it, for both supervisors and for the agent itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from agent.errors import ConfigError
from agent.worker.hold import HOLD_FILE, is_held
from supervisor_gen import holds
from supervisor_gen.emitters import EMITTERS
from supervisor_gen.emitters.base import Written
from supervisor_gen.emitters.systemd import TEMPLATE
from supervisor_gen.model import AgentSettings, Files, HostPlan, Place, PlannedAgent, Site
from supervisor_gen.topology import read_topology
from supervisor_gen.writer import write_files

QUEUES = st.lists(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=3).filter(
        lambda name: not name.startswith("-")
    ),
    min_size=1,
)


def emitted(format_: str, *queues: str, version: str = "1.2.3") -> Files:
    settings = AgentSettings(queues=queues or ("train",), options=("--debug",))
    agent = PlannedAgent(name="gpu0", place=Place("topology.conf", 1), settings=settings)
    return EMITTERS[format_].files_for(HostPlan(host="gpu01", agents=(agent,)), Site(version=version))


def test_systemd_tells_the_agent_of_the_file_that_drain_writes() -> None:
    file = emitted("systemd")[TEMPLATE].text
    assert f"Environment={HOLD_FILE}=/{holds.HELD}/%i\n" in file


def test_supervisord_tells_the_agent_of_the_file_that_drain_writes_below_whatever_root(tmp_path: Path) -> None:
    write_files(tmp_path, emitted("supervisord"))
    main = tmp_path / "supervisord.conf"
    main.write_text(f"[supervisord]\nlogfile={tmp_path}/log\n[include]\nfiles=etc/supervisor/conf.d/*.conf\n")
    text = (tmp_path / "etc/supervisor/conf.d/clearml-agent-gpu0.conf").read_text()
    (tmp_path / "etc/supervisor/conf.d/clearml-agent-gpu0.conf").write_text(
        text.replace("/var/log/gpufleet", str(tmp_path))
    )
    options = ServerOptions()
    options.realize(["-c", str(main)])
    environment = options.process_group_configs[0].process_configs[0].environment
    assert os.path.normpath(environment[HOLD_FILE]) == str(tmp_path / holds.HELD / "gpu0")
    assert not is_held(environment)
    holds.hold(tmp_path, {"gpu0": holds.hold_now()})
    assert is_held(environment)
    assert holds.release(tmp_path, ["gpu0", "gpu1"]) == {"gpu0"}
    assert not is_held(environment)


def test_an_agent_that_nobody_told_of_a_file_is_not_held() -> None:
    assert not is_held({})
    assert not is_held({HOLD_FILE: ""})


def test_a_place_that_is_no_folder_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not is_held({HOLD_FILE: str(tmp_path / "file/held")})
    assert not is_held({HOLD_FILE: str(tmp_path / ("x" * 300))})


def test_a_hold_names_the_person_behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    assert holds.hold_now("fan").by == "alice"
    assert holds.hold_now("fan").why == "fan"


@pytest.mark.parametrize("format_", sorted(EMITTERS))
@given(queues=QUEUES)
def test_version_and_queues_are_read_back_as_they_were_written(format_: str, queues: list[str]) -> None:
    emitter = EMITTERS[format_]
    try:
        files = emitted(format_, *queues)
    except ConfigError:
        return  # supervisord cannot be told
    assert emitter.written("gpu0", files) == Written(version="1.2.3", queues=tuple(queues))
    assert emitter.written("gpu1", files) == Written()


@pytest.mark.parametrize("name", [HOLD_FILE, "GPUFLEET_VERSION"])
def test_a_topology_may_not_set_what_the_generator_sets(tmp_path: Path, name: str) -> None:
    file = tmp_path / "topology.conf"
    file.write_text(f'agents: [ {{ queues: [training], environment {{ {name}: "x" }} }} ]')
    with pytest.raises(ConfigError, match=name):
        read_topology(str(file))
