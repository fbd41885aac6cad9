"""`drain`, `resume` and `status` with a supervisor that only remembers, and what `apply` makes of held agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from supervisor_gen import apply as applying
from supervisor_gen import holds, operate, state
from supervisor_gen.cli import apply as cli_apply
from supervisor_gen.cli import main, options
from supervisor_gen.drain import Drain
from supervisor_gen.supervisors.base import AT_REST, Condition, State

MIG = {"mig_enabled": True, "mig": [{"index": at, "uuid": f"MIG-{at}", "profile": "1g.10gb"} for at in range(2)]}
INVENTORY = {
    "version": 1,
    "host": "gpu01",
    "gpus": [
        {"index": 0, "uuid": "GPU-a", "name": "NVIDIA H100"},
        {"index": 1, "uuid": "GPU-b", "name": "NVIDIA H100"},
        {"index": 2, "uuid": "GPU-c", "name": "NVIDIA A100", **MIG},
    ],
}
TOPOLOGY = """agents: [
  { gpu { index: [0, 1] }, queues: [training, "second queue"] }
  { name: part, gpu { mig: ["*"] }, queues: [small] }
  { name: services, gpus: 0, queues: [services] }
]
"""
NAMES = ["gpu0", "gpu1", "part2mig0", "part2mig1", "services"]


class Fake:
    """A supervisor. Agents in `busy` drain until somebody takes them out of it."""

    def __init__(self) -> None:
        self.conditions: dict[str, Condition] = {}
        self.busy: set[str] = set()
        self.broken: set[str] = set()
        self.draining: set[str] = set()
        self.calls: list[tuple[str, ...]] = []
        self.on_look: Callable[[], None] = lambda: None

    def states(self, agents: Sequence[str]) -> dict[str, State]:
        self.on_look()
        for agent in self.draining - self.busy:
            self.conditions[agent] = Condition.GONE
            self.draining.discard(agent)
        return {agent: State(condition=self._of(agent), says=self._says(agent)) for agent in agents}

    def _of(self, agent: str) -> Condition:
        return self.conditions.get(agent, Condition.GONE)

    def _says(self, agent: str) -> str:
        return "draining: running task t1" if agent in self.draining else ""

    def prepare(self) -> None:
        pass

    def reload(self, agents: Sequence[str]) -> None:
        pass

    def forget(self, agents: Sequence[str]) -> None:
        self.calls += [("forget", *agents)] if agents else []

    def start(self, agents: Sequence[str]) -> None:
        self.calls += [("start", *agents)] if agents else []
        for agent in agents:
            self.conditions[agent] = Condition.FAILED if agent in self.broken else Condition.RUNNING

    def restart(self, agents: Sequence[str]) -> None:
        self.calls += [("restart", *agents)] if agents else []

    def drain(self, agents: Sequence[str]) -> None:
        self.calls += [("drain", *agents)] if agents else []
        self.draining |= {agent for agent in agents if self._of(agent) not in AT_REST}


class Host:
    """A root with five agents that run, and the command line on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.supervisor = Fake()
        self._capsys = capsys
        (root / "inventory.json").write_text(json.dumps(INVENTORY))
        (root / "clearml.conf").touch()
        self.program = root / "clearml-agent"
        self.program.touch()
        self.declare(TOPOLOGY)

    def declare(self, topology: str) -> None:
        file = self.root / "etc/gpufleet/topology.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'defaults {{ config_file: "{self.root}/clearml.conf" }}\n{topology}')

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        found = main([*words, "--root", str(self.root), "--state-dir", str(self.root / "state")])
        out, err = self._capsys.readouterr()
        assert found == code, err
        return out, err

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--json", code=code)[0])
        return found

    def apply(self, *words: str) -> dict[str, str]:
        given = ("--inventory", str(self.root / "inventory.json"), "--program", str(self.program))
        done: dict[str, str] = self.json("apply", *given, *words)["done"]
        return done

    def leave_task(self, agent: str, task: str = "t1") -> Path:
        run = self.root / f"state/runs/{task}.1"
        run.mkdir(parents=True)
        (run / "claim.json").write_text(json.dumps({"agent": f"gpu01:{agent}"}))
        return run / "claim.json"

    def held(self) -> set[str]:
        return set(holds.read(self.root))


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path, capsys)
    for module in (operate, applying):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(cli_apply, "HIDDEN", {"systemd": (), "supervisord": ()})
    for module in (options, cli_apply):
        monkeypatch.setattr(module, "supervisor_for", lambda *_, **__: found.supervisor)
    assert set(found.apply().values()) == {"started"}
    found.supervisor.calls.clear()
    return found


def test_drained_agents_are_held_asked_and_waited_for(host: Host) -> None:
    host.supervisor.busy = {"gpu1"}
    looks = iter(range(3))
    host.supervisor.on_look = lambda: host.supervisor.busy.clear() if next(looks, None) is None else None
    out, err = host.run("drain", "--why", "new disks")
    assert "gpu1: draining: running task t1" in err
    assert out.splitlines()[0].split() == ["AGENT", "CONDITION", "HELD", "GPUS", "QUEUES", "VERSION", "NOW"]
    assert host.supervisor.calls[0] == ("drain", *NAMES)
    assert host.held() == set(NAMES)
    file = host.root / "var/lib/gpufleet/held/gpu0"
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.parent.stat().st_mode & 0o777 == 0o755
    assert json.loads(file.read_text()).keys() == {"since", "by", "why"}


def test_a_drain_says_in_json_what_it_did_and_a_second_one_that_nothing_was_to_be_done(host: Host) -> None:
    found = host.json("drain", "gpu0", "--why", "fan")
    assert (found["host"], found["changed"], found["left"], found["running"]) == ("gpu01", True, ["gpu0"], {})
    agent = found["agents"]["gpu0"]
    assert agent["held"]["why"] == "fan"
    assert (agent["condition"], agent["changed"], agent["tasks"]) == ("gone", True, [])
    host.supervisor.calls.clear()
    again = host.json("drain", "gpu0", "--why", "other")
    assert (again["changed"], again["left"]) == (False, ["gpu0"])
    assert again["agents"]["gpu0"]["held"] == agent["held"]
    assert host.supervisor.calls == []


def test_when_the_time_is_up_those_that_run_are_named_and_go_on_draining(host: Host) -> None:
    host.supervisor.busy = {"gpu1"}
    host.leave_task("gpu1")
    found = host.json("drain", "gpu*", "--timeout", "0", code=1)
    says = "draining: running task t1"
    assert found["running"] == {"gpu1": {"condition": "running", "says": says, "tasks": ["t1"]}}
    assert found["left"] == ["gpu0"]
    assert host.held() == {"gpu0", "gpu1"}
    _, err = host.run("drain", "gpu*", "--timeout", "0", code=1)
    assert "not drained: gpu1" in err
    host.json("drain", "gpu*", "--timeout", "0", code=1)


def test_without_waiting_running_agents_are_no_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor_gen.cli import drain

    monkeypatch.setattr(drain, "IDLE_SECONDS", 0)
    host.supervisor.busy = {"gpu1"}
    assert set(host.json("drain", "--no-wait")["running"]) == {"gpu1"}


def test_an_agent_at_rest_that_has_left_a_task_behind_is_started_to_account_for_it(host: Host) -> None:
    host.supervisor.conditions["gpu0"] = Condition.GONE
    claim = host.leave_task("gpu0")
    host.supervisor.on_look = lambda: _account(host, claim)
    found = host.json("drain", "gpu0")
    assert ("start", "gpu0") in host.supervisor.calls
    assert found["left"] == ["gpu0"]


def _account(host: Host, claim: Path) -> None:
    if host.supervisor.conditions["gpu0"] is Condition.RUNNING:
        claim.unlink(missing_ok=True)
        host.supervisor.conditions["gpu0"] = Condition.GONE


def test_an_agent_that_cannot_start_to_account_for_its_task_is_given_up_and_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operate, "BEGIN_SECONDS", 0.01)
    host.supervisor.conditions["gpu0"] = Condition.GONE
    host.supervisor.broken = {"gpu0"}
    host.leave_task("gpu0")
    found = host.json("drain", "gpu0", code=1)
    assert found["running"]["gpu0"]["condition"] == "failed"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["gpu0"], ["gpu0"]),
        (["gpu?", "services"], ["gpu0", "gpu1", "services"]),
        (["--gpu", "1"], ["gpu1"]),
        (["--gpu", "gpu-A"], ["gpu0"]),
        (["--gpu", "2"], ["part2mig0", "part2mig1"]),
        (["--gpu", "2:1"], ["part2mig1"]),
        (["--gpu", "GPU-c", "--gpu", "0"], ["gpu0", "part2mig0", "part2mig1"]),
        (["--gpu", "MIG-0", "services"], ["part2mig0", "services"]),
        ([], NAMES),
    ],
)
def test_agents_are_chosen_by_name_pattern_and_gpu(host: Host, words: list[str], names: list[str]) -> None:
    assert list(host.json("status", *words)["agents"]) == names


@pytest.mark.parametrize("words", [["gpu7"], ["gpu0", "x*"], ["--gpu", "7"], ["--gpu", "GPU-z"], ["--timeout", "x"]])
def test_what_is_not_there_ends_with_2_and_nothing_is_done(host: Host, words: list[str]) -> None:
    host.run("drain", *words, code=2)
    assert host.held() == set()
    assert host.supervisor.calls == []


def test_a_name_that_is_not_there_is_answered_by_one_that_is(host: Host) -> None:
    assert "Did you mean gpu1? It has: gpu0, gpu1," in host.run("drain", "gpu11", code=2)[1]


def test_a_gpu_that_no_agent_has_is_nothing_to_drain(host: Host) -> None:
    host.declare(TOPOLOGY.replace("[0, 1]", "[0]"))
    host.apply()
    out, err = host.run("drain", "--gpu", "1", "--json")
    assert "no agent has GPU 1" in err
    assert json.loads(out)["agents"] == {}


def test_status_says_all_there_is_to_know(host: Host) -> None:
    host.leave_task("gpu0")
    found = host.json("status", "gpu0", "part2mig1")
    assert found == {
        "host": "gpu01",
        "agents": {
            "gpu0": {
                "worker": "gpu01:gpu0",
                "condition": "running",
                "says": "",
                "held": None,
                "gpus": [{"index": 0, "uuid": "GPU-a", "model": "NVIDIA H100"}],
                "queues": ["training", "second queue"],
                "tasks": ["t1"],
                "version": __version__,
            },
            "part2mig1": {
                "worker": "gpu01:part2mig1",
                "condition": "running",
                "says": "",
                "held": None,
                "gpus": [{"index": 2, "uuid": "MIG-1", "model": "NVIDIA A100 MIG 1g.10gb"}],
                "queues": ["small"],
                "tasks": [],
                "version": __version__,
            },
        },
    }
    assert host.run("status")[0].splitlines()[1].split() == [
        *("gpu0", "running", "0", "training,", "second", "queue", __version__, "tasks", "t1"),
    ]


def test_resumed_agents_are_started_and_held_no_longer(host: Host) -> None:
    host.run("drain")
    host.supervisor.calls.clear()
    found = host.json("resume", "gpu0", "services")
    assert host.supervisor.calls == [("start", "gpu0", "services")]
    assert host.held() == {"gpu1", "part2mig0", "part2mig1"}
    assert (found["changed"], found["failed"], found["waiting"]) == (True, {}, {})
    assert found["done"] == {"gpu0": "resumed", "services": "resumed"}
    assert found["agents"]["gpu0"]["condition"] == "running"
    again = host.json("resume", "gpu0")
    assert (again["changed"], again["done"], again["agents"]["gpu0"]["changed"]) == (
        False,
        {"gpu0": "unchanged"},
        False,
    )


def test_an_agent_that_still_drains_is_started_when_it_has_left_and_is_held_until_then(host: Host) -> None:
    host.supervisor.busy = {"gpu0"}
    host.run("drain", "gpu0", "--timeout", "0", code=1)
    seen: list[set[str]] = []

    def look() -> None:
        seen.append(host.held())
        if len(seen) == 4:
            host.supervisor.busy.clear()

    host.supervisor.on_look = look
    found = host.json("resume", "gpu0")
    assert found["done"] == {"gpu0": "resumed"}
    assert seen[:4] == [{"gpu0"}] * 4
    assert host.held() == set()
    assert host.supervisor.conditions["gpu0"] is Condition.RUNNING


def test_an_agent_that_still_drains_is_let_go_of_where_nobody_waits(host: Host) -> None:
    host.supervisor.busy = {"gpu0"}
    host.run("drain", "gpu0", "--timeout", "0", code=1)
    found = host.json("resume", "gpu0", "--no-wait")
    assert "the next resume or apply starts it" in found["done"]["gpu0"]
    assert found["waiting"] == {"gpu0": "draining: running task t1"}
    assert host.held() == set()
    host.supervisor.busy.clear()
    assert host.json("resume", "gpu0")["done"] == {"gpu0": "started"}


def test_a_masked_agent_is_left_alone_and_one_that_does_not_come_up_is_a_failure(host: Host) -> None:
    host.run("drain", "gpu0", "gpu1")
    host.supervisor.conditions["gpu0"] = Condition.MASKED
    host.supervisor.broken = {"gpu1"}
    found = host.json("resume", code=1)
    assert found["done"]["gpu0"] == "masked: left alone"
    assert set(found["failed"]) == {"gpu1"}


def test_apply_leaves_held_agents_alone_although_their_settings_change(host: Host) -> None:
    host.supervisor.busy = {"gpu1"}
    host.run("drain", "gpu0", "gpu1", "--timeout", "0", code=1)
    host.supervisor.calls.clear()
    host.declare(TOPOLOGY.replace("training", "other"))
    done = host.apply()
    assert done == {
        **{"gpu0": "held: left alone", "gpu1": "held: draining"},
        **{"part2mig0": "unchanged", "part2mig1": "unchanged", "services": "unchanged"},
    }
    assert host.supervisor.calls == [("drain", "gpu1")]
    assert host.json("status", "gpu0")["agents"]["gpu0"]["queues"] == ["other", "second queue"]


def test_a_held_agent_that_is_removed_loses_its_hold_and_one_that_gets_another_gpu_keeps_it(host: Host) -> None:
    host.run("drain", "gpu0", "services")
    host.supervisor.calls.clear()
    kept = "{ name: services, gpu { index: 0 }, gpus: all, queues: [services] }"
    host.declare(f'agents: [ {{ gpu {{ index: 1 }}, queues: [training, "second queue"] }}, {kept} ]')
    done = host.apply()
    assert (done["gpu0"], done["services"]) == ("removed", "held: replaced")
    assert host.held() == {"services"}
    assert [call for call in host.supervisor.calls if call[0] == "start"] == []


def test_a_dry_run_says_that_held_agents_would_be_left_alone(host: Host) -> None:
    host.run("drain", "gpu0")
    assert host.apply("--dry-run")["gpu0"] == "held: left alone"


def test_another_version_finds_every_agent_changed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "Site", lambda **values: replace(applying.Site(**values), version="9.9.9"))
    assert set(host.apply().values()) == {"restarted"}
    assert host.json("status", "gpu0")["agents"]["gpu0"]["version"] == "9.9.9"


def test_below_a_root_that_nobody_supervises_agents_are_only_held(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (options, cli_apply):
        monkeypatch.setattr(module, "supervisor_for", lambda *_, **__: None)
    found = host.json("drain", "gpu0")
    assert (found["left"], found["agents"]["gpu0"]["condition"]) == (["gpu0"], None)
    assert host.held() == {"gpu0"}
    assert host.apply()["gpu0"] == "held: left alone"
    assert host.json("resume", "gpu0")["done"] == {"gpu0": "resumed"}
    assert host.held() == set()


def test_who_is_at_work_keeps_others_from_writing_and_not_from_reading(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operate, "PATIENCE_SECONDS", 0.05)
    with state.locked(host.root):
        assert "another supervisor-gen" in host.run("drain", "gpu0", code=1)[1]
        host.run("status")
    assert host.held() == set()


def test_an_apply_comes_and_goes_while_a_drain_waits(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.supervisor.busy = {"gpu0"}
    original = Drain.ended
    done: list[dict[str, str]] = []

    def ended(self: Drain, agents: set[str]) -> set[str]:
        if not done and agents == {"gpu0"}:
            with state.locked(host.root):
                done.append({})
            host.supervisor.busy.clear()
        return original(self, agents)

    monkeypatch.setattr(Drain, "ended", ended)
    assert host.json("drain", "gpu0")["left"] == ["gpu0"]
    assert done


def test_a_damaged_hold_still_holds(host: Host) -> None:
    host.run("drain", "gpu0")
    (host.root / "var/lib/gpufleet/held/gpu0").write_text("{")
    found = host.json("status", "gpu0")["agents"]["gpu0"]
    assert found["held"] == {"since": "", "by": "", "why": ""}
    assert "held" in host.run("status")[0]
