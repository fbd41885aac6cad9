"""From the files before and after to what is done about each agent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import ConfigError
from supervisor_gen.drain import has_unfinished
from supervisor_gen.emitters import EMITTERS
from supervisor_gen.emitters.systemd import TEMPLATE
from supervisor_gen.model import AgentSettings, Device, File, Files, HostPlan, Limits, Place, PlannedAgent, Site
from supervisor_gen.steps import Action, steps_for


def one(name: str, uuid: str = "GPU-0", **settings: object) -> PlannedAgent:
    device = Device(uuid=uuid, label="0", model="H100", memory_mib=81559, nodes=(f"/dev/nvidia{uuid[-1]}",))
    given = {"queues": ("train",), **settings}
    return PlannedAgent(
        name=name,
        place=Place("topology.conf", 1),
        settings=AgentSettings(**given),
        devices=(device,),  # type: ignore[arg-type]
    )


def files(format_: str, *agents: PlannedAgent) -> Files:
    return EMITTERS[format_].files_for(HostPlan(host="gpu01", agents=agents), Site())


def actions(format_: str, before: Files, after: Files) -> dict[str, Action]:
    return {step.agent: step.action for step in steps_for(before, after, EMITTERS[format_])}


@pytest.fixture(params=sorted(EMITTERS))
def format_(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_agent_whose_files_stay_the_same_is_kept_while_others_come_and_go(format_: str) -> None:
    before = files(format_, one("gpu0"), one("gpu1", "GPU-1"))
    after = files(format_, one("gpu0"), one("gpu2", "GPU-2"))
    assert actions(format_, before, after) == {"gpu0": Action.KEEP, "gpu1": Action.REMOVE, "gpu2": Action.START}


def test_an_agent_with_other_queues_is_restarted_without_draining(format_: str) -> None:
    after = files(format_, one("gpu0", queues=("train", "low")))
    assert actions(format_, files(format_, one("gpu0")), after) == {"gpu0": Action.RESTART}


def test_an_agent_that_gets_another_gpu_is_drained_first(format_: str) -> None:
    after = files(format_, one("gpu0", "GPU-7"))
    assert actions(format_, files(format_, one("gpu0")), after) == {"gpu0": Action.REPLACE}


def test_an_agent_that_gets_another_user_is_drained_first(format_: str) -> None:
    after = files(format_, one("gpu0", user="builder"))
    assert actions(format_, files(format_, one("gpu0")), after) == {"gpu0": Action.REPLACE}


def test_a_new_limit_is_no_reason_to_drain() -> None:
    after = files("systemd", one("gpu0", limits=Limits(memory="1G")))
    assert actions("systemd", files("systemd", one("gpu0")), after) == {"gpu0": Action.RESTART}


def test_a_new_template_restarts_every_agent() -> None:
    before = files("systemd", one("gpu0"), one("gpu1", "GPU-1"))
    after = {**before, TEMPLATE: File(before[TEMPLATE].text + "# newer\n")}
    assert set(actions("systemd", before, after).values()) == {Action.RESTART}


def test_a_new_line_number_in_the_topology_is_no_reason_to_restart(format_: str) -> None:
    moved = replace(one("gpu0"), place=Place("topology.conf", 9))
    assert actions(format_, files(format_, one("gpu0")), files(format_, moved)) == {"gpu0": Action.KEEP}


def test_a_broken_installation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor_gen.emitters import systemd

    monkeypatch.setattr(systemd, "units_folder", lambda: systemd.Path("/nowhere"))
    systemd._read.cache_clear()
    with pytest.raises(ConfigError, match="not complete"):
        files("systemd", one("gpu0"))


@pytest.mark.parametrize(
    ("claim", "is_its"),
    [
        ({"worker": "h:gpu0"}, True),
        ({"worker": "h:gpu0", "agent": ""}, True),
        ({"worker": "h:gpu0,1", "agent": "h:gpu0"}, True),
        ({"worker": "h:gpu0", "agent": "h:shared"}, False),
        ({}, False),
    ],
)
def test_a_run_belongs_to_the_agent_that_sees_it_through(tmp_path: Path, claim: dict[str, str], is_its: bool) -> None:
    run = tmp_path / "clearml-agent" / "runs" / "t.1"
    run.mkdir(parents=True)
    (run / "claim.json").write_text(json.dumps(claim))
    assert has_unfinished(tmp_path / "clearml-agent", "h", "gpu0") is is_its
