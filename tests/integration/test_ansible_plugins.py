"""The modules and the inventory plugin of the Ansible collection, run by Ansible against the real server.

One run of a playbook costs a second and each task of it a third, so a test puts a story into one run and looks at what
each step of it returned.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.ansible import COLLECTION, ROOT, Ansible, linked_collection, plain
from support.apiserver import ServerProcess
from support.http_stub import Answer, envelope, http_stub
from support.plain_server import plain_server

from agent.worker.presence import VERSION_TAG
from agent.worker.standing import Stand, Standing

PLUGINS = ROOT / "ansible/plugins"
#: Nobody listens on port 9 of loopback.
NOWHERE = "http://127.0.0.1:9"
VERSION = "gpufleet 0.1.0"
#: Gives the Python module of a plugin, such as `modules.clearml_queue`.
Plugin = Callable[[str], ModuleType]
#: Workers, and seconds since the epoch.
Snapshot = tuple[list[dict[str, Any]], float]
#: What an agent's token tells of the clock: nothing.
TOKEN = "e30.e30.c2ln"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    """Imports a plugin of the collection into this process, for what is pure in it."""
    collections = linked_collection(tmp_path_factory.mktemp("collections"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(collections)
        yield lambda name: importlib.import_module(f"ansible_collections.{COLLECTION}.plugins.{name}")


@pytest.fixture
def ansible(tmp_path: Path, server: ServerProcess) -> Ansible:
    """Finds the server by its environment."""
    return Ansible(tmp_path, **_credentials(server))


def _credentials(server: ServerProcess, api: str = "") -> dict[str, str]:
    return {
        "CLEARML_API_HOST": api or server.api,
        "CLEARML_API_ACCESS_KEY": server.access_key,
        "CLEARML_API_SECRET_KEY": server.secret_key,
    }


def _queue(server: ServerProcess, name: str) -> dict[str, Any] | None:
    found = server.call("queues.get_all", name=f"^{name}$")["queues"]
    return found[0] if found else None


def _forced(server: ServerProcess, worker: str) -> list[dict[str, Any]]:
    return server.call("workers.get_runtime_properties", worker=worker)["runtime_properties"]


def _running(server: ServerProcess, worker: str, name: str) -> str:
    """A task that this worker runs, as its reports say."""
    task = server.new_task(name)
    server.call("tasks.started", task=task, force=True)
    server.call("workers.status_report", worker=worker, timestamp=0, task=task)
    return task


def _msg(results: dict[str, Any], name: str) -> str:
    assert results[name]["failed"], results[name]
    return results[name]["msg"]


def _changed(results: dict[str, Any]) -> list[str]:
    assert not [name for name, result in results.items() if result["failed"]], results
    return [name for name, result in results.items() if result["changed"]]


# --- queues


def test_a_queue_is_made_tagged_and_deleted_and_a_second_time_changes_nothing(
    ansible: Ansible, server: ServerProcess
) -> None:
    wanted = {"name": "story", "tags": ["gpu", "team-a"]}
    results = ansible.results(
        {
            "planned": {"clearml_queue": wanted, "check_mode": True},
            "made": {"clearml_queue": wanted},
            "again": {"clearml_queue": wanted},
            "other_case": {"clearml_queue": {"name": "Story", "tags": ["gpu"]}},
            "added": {"clearml_queue": {"name": "story", "tags": ["night"]}},
            "without": {"clearml_queue": {"name": "story", "tags": ["night"], "tags_state": "absent"}},
            "exact": {"clearml_queue": {"name": "story", "tags": ["gpu", "b"], "tags_state": "exact"}},
            "exactly_again": {"clearml_queue": {"name": "story", "tags": ["b", "gpu"], "tags_state": "exact"}},
            "plan_to_delete": {"clearml_queue": {"name": "story", "state": "absent"}, "check_mode": True},
            "deleted": {"clearml_queue": {"name": "story", "state": "absent"}},
            "deleted_again": {"clearml_queue": {"name": "story", "state": "absent"}},
        }
    )
    assert _changed(results) == ["planned", "made", "added", "without", "exact", "plan_to_delete", "deleted"]
    assert results["planned"]["queue"] == {"id": None, "name": "story", "tags": ["gpu", "team-a"], "waiting": 0}
    made = results["made"]["queue"]
    assert made == {**results["planned"]["queue"], "id": made["id"]}
    assert results["made"]["diff"] == {"before": {}, "after": made}
    assert results["other_case"]["queue"] == made
    assert results["added"]["diff"]["before"]["tags"] == ["gpu", "team-a"]
    assert results["added"]["diff"]["after"]["tags"] == ["gpu", "night", "team-a"]
    assert results["without"]["queue"]["tags"] == ["gpu", "team-a"]
    assert results["exact"]["queue"]["tags"] == ["b", "gpu"]
    assert results["deleted"]["diff"] == {"before": results["exact"]["queue"], "after": {}}
    assert results["deleted"]["queue"] is None
    assert _queue(server, "story") is None


def test_force_workers_manages_its_tag_alone_and_takes_yaml_booleans(ansible: Ansible, server: ServerProcess) -> None:
    results = ansible.results(
        {
            "closed": {"clearml_queue": {"name": "forced", "tags": ["gpu"], "force_workers": "off"}},
            "opened": {"clearml_queue": {"name": "forced", "force_workers": True}},
            "again": {"clearml_queue": {"name": "forced", "force_workers": "on"}},
            "closed_in_check_mode": {"clearml_queue": {"name": "forced", "force_workers": False}, "check_mode": True},
            "untouched": {"clearml_queue": {"name": "forced", "tags": ["gpu"]}},
            "freed": {"clearml_queue": {"name": "forced", "force_workers": "none"}},
        }
    )
    assert _changed(results) == ["closed", "opened", "closed_in_check_mode", "freed"]
    tags = {name: result["queue"]["tags"] for name, result in results.items()}
    assert tags["closed"] == tags["closed_in_check_mode"] == ["force_workers:off", "gpu"]
    assert tags["opened"] == tags["untouched"] == ["force_workers:on", "gpu"]
    assert tags["freed"] == ["gpu"]
    found = _queue(server, "forced")
    assert found is not None
    assert found["tags"] == ["gpu"]


def test_a_queue_in_use_is_deleted_only_when_that_is_forced(ansible: Ansible, server: ServerProcess) -> None:
    full, watched = server.new_queue("full"), server.new_queue("watched")
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=full)
    server.call("workers.register", worker="watcher:0", queues=[watched])
    forced = {"name": "full", "state": "absent", "force_delete": True}
    results = ansible.results(
        {
            "full": {"clearml_queue": {"name": "full", "state": "absent"}},
            "watched": {"clearml_queue": {"name": "watched", "state": "absent"}, "check_mode": True},
            "planned": {"clearml_queue": forced, "check_mode": True},
            "forced": {"clearml_queue": forced},
        }
    )
    assert "queue full is not deleted: 1 task waits in it. force_delete: true deletes it" in _msg(results, "full")
    assert "queue watched is not deleted: watcher:0 listens to it" in _msg(results, "watched")
    assert results["planned"]["changed"]
    assert results["forced"]["diff"]["before"]["waiting"] == 1
    assert _queue(server, "full") is None
    assert _queue(server, "watched") is not None
    assert server.status(task) == "created"


# --- workers: force


def test_a_force_is_set_once_until_too_little_of_it_is_left(ansible: Ansible, server: ServerProcess) -> None:
    worker = "forced:gpu0"
    moment = (datetime.now(UTC) + timedelta(hours=3)).isoformat(timespec="seconds")
    closed = {"worker": worker, "force": "off", "expires_in": "2h"}
    results = ansible.results(
        {
            "planned": {"clearml_worker": closed, "check_mode": True},
            "closed": {"clearml_worker": closed},
            "again": {"clearml_worker": closed},
            "shorter": {"clearml_worker": {**closed, "expires_in": 3600}},
            "longer": {"clearml_worker": {**closed, "expires_in": "1h30m", "expires_tolerance": 1900}},
            "much_longer": {"clearml_worker": {**closed, "expires_in": "1d"}},
            "until": {"clearml_worker": {"worker": worker, "force": False, "expires_at": moment}},
            "until_again": {"clearml_worker": {"worker": worker, "force": "off", "expires_at": moment}},
            "opened": {"clearml_worker": {"worker": worker, "force": True}},
            "opened_again": {"clearml_worker": {"worker": worker, "force": "on"}},
            "looked_at": {"clearml_worker": {"worker": worker}},
            "ended": {"clearml_worker": {"worker": worker, "force": "none"}},
            "ended_again": {"clearml_worker": {"worker": worker, "force": "none"}},
        }
    )
    assert _changed(results) == ["planned", "closed", "shorter", "much_longer", "until", "opened", "ended"]
    assert results["planned"]["worker"] == {
        "id": worker,
        "present": False,
        "force": {"value": "off", "seconds_left": 7200},
    }
    none, forever = {"value": "none", "seconds_left": None}, {"value": "on", "seconds_left": None}
    assert results["closed"]["diff"]["before"] == {"force": none}
    assert 7190 < results["closed"]["diff"]["after"]["force"]["seconds_left"] <= 7200
    assert 3590 < results["shorter"]["worker"]["force"]["seconds_left"] <= 3600
    assert 10000 < results["until"]["worker"]["force"]["seconds_left"] <= 10800
    assert results["opened"]["worker"]["force"] == results["looked_at"]["worker"]["force"] == forever
    assert results["ended"]["diff"] == {"before": {"force": forever}, "after": {"force": none}}
    assert _forced(server, worker) == []


def test_options_that_mean_nothing_are_refused_before_anything_is_done(ansible: Ansible, server: ServerProcess) -> None:
    worker = {"worker": "refused:0", "force": "off"}
    results = ansible.results(
        {
            "duration": {"clearml_worker": {**worker, "expires_in": "soon"}},
            "zoneless": {"clearml_worker": {**worker, "expires_at": "2036-11-22T08:00:00"}},
            "past": {"clearml_worker": {**worker, "expires_at": "2006-11-22T08:00:00Z"}},
            "both": {"clearml_worker": {**worker, "expires_in": 5, "expires_at": "2036-11-22T08:00:00Z"}},
            "forceless": {"clearml_worker": {"worker": "refused:0", "expires_in": 5}},
            "version": {"clearml_worker": {**worker, "wait_for": "idle", "version": "0.1.0"}},
        }
    )
    assert "expires_in is no duration: 'soon'. Write seconds, or 90s, 15m" in _msg(results, "duration")
    assert "expires_at is no time with an offset: '2036-11-22T08:00:00'" in _msg(results, "zoneless")
    assert "expires_at is over: it is 20" in _msg(results, "past")
    assert "mutually exclusive: expires_in|expires_at" in _msg(results, "both")
    assert "expires_in goes with force: on or force: off only" in _msg(results, "forceless")
    assert "version goes with wait_for: registered only" in _msg(results, "version")
    assert _forced(server, "refused:0") == []


def test_a_server_without_runtime_properties_is_told_of_and_only_where_it_matters(
    tmp_path: Path, server: ServerProcess
) -> None:
    with plain_server(server.api) as (api, _calls):
        ansible = Ansible(tmp_path, **_credentials(server, api))
        results = ansible.results(
            {
                "forced": {"clearml_worker": {"worker": "plain:0", "force": "off"}},
                "freed": {"clearml_worker": {"worker": "plain:0", "force": "none", "wait_for": "gone"}},
                "told": {"clearml_worker_info": {"with_force": True}},
                "queue": {"clearml_queue": {"name": "plain", "force_workers": "off"}},
            }
        )
    assert f"the server {api} has no runtime properties of workers" in _msg(results, "forced")
    assert "force_workers of gpufleet.clearml.clearml_queue" in _msg(results, "forced")
    assert not results["freed"]["changed"]
    assert results["freed"]["worker"] == {"id": "plain:0", "present": False, "force": None}
    assert not results["told"]["failed"]
    assert results["queue"]["queue"]["tags"] == ["force_workers:off"]


# --- workers: waiting


@pytest.fixture(scope="module")
def fleet(server: ServerProcess) -> dict[str, str]:
    """Workers in all states; the ids of the two tasks that sub-workers of theirs run, by worker."""
    queue = server.new_queue("waited")
    for worker, tags in {
        "open:0": [VERSION],
        "closed:0": ["closed until 2036-11-24T08:00+01:00"],
        "forced:0": ["forced off", VERSION],
        "opened:0": ["forced on"],
        "lacking:0": ["waiting: no memory"],
        "broken:0": ["cordoned: GPU 1 is lost"],
        "paused:0": ["paused: new disks", "closed"],
        "crew:0": [],
        "pool:dgpu0,1": ["draining"],
    }.items():
        server.call("workers.register", worker=worker, queues=[queue], tags=tags)
    return {
        "crew:0": _running(server, "crew:0:service:1", "a service"),
        "pool:dgpu0,1": _running(server, "pool:gpu1", "train resnet"),
    }


def test_what_is_waited_for_is_seen_at_once_and_a_time_out_says_what_the_worker_still_does(
    ansible: Ansible, server: ServerProcess, fleet: dict[str, str]
) -> None:
    def wait(worker: str, wait_for: str, **more: Any) -> dict[str, Any]:
        return {"clearml_worker": {"worker": worker, "wait_for": wait_for, "timeout": 0, **more}}

    server.call("workers.status_report", worker="open:0", timestamp=0)  # a minute may have gone by
    results = ansible.results(
        {
            "registered": wait("open:0", "registered", version="0.1.0", registered_after="2026-01-01T00:00:00Z"),
            "unregistered": wait("nobody:0", "registered"),
            "crew_is_busy": wait("crew:0", "idle"),
            "pool_is_busy": wait("pool:dgpu0,1", "idle", timeout=0.2, interval=0.05),
            "not_gone": wait("pool:dgpu0,1", "gone"),
            "not_open": wait("closed:0", "open"),
            "closed": wait("closed:0", "closed"),
            "not_in_check_mode": {**wait("nobody:0", "registered", timeout=60), "check_mode": True},
        }
    )
    assert {name for name, result in results.items() if not result["failed"]} == {
        "registered",
        "closed",
        "not_in_check_mode",
    }
    unregistered = "worker nobody:0 is not registered after 0 s: it is not on the server's list. Does the agent run"
    assert unregistered in _msg(results, "unregistered")
    crew_runs = f"crew:0:service:1 runs task {fleet['crew:0']} (a service)"
    pool_runs = f"pool:gpu1 runs task {fleet['pool:dgpu0,1']} (train resnet)"
    assert f"worker crew:0 is not idle after 0 s: {crew_runs}. A task" in _msg(results, "crew_is_busy")
    assert f"worker pool:dgpu0,1 is not idle after 0.2 s: {pool_runs}. A task" in _msg(results, "pool_is_busy")
    assert "it is on the server's list, running, draining, reported at 20" in _msg(results, "not_gone")
    assert f"; {pool_runs}. An agent that was killed stays on the list" in _msg(results, "not_gone")
    assert "it is closed until 2036-11-24T08:00+01:00. Its working hours" in _msg(results, "not_open")
    worker = results["registered"]["worker"]
    assert worker["present"]
    assert (worker["version"], worker["standing"], worker["queues"]) == ("0.1.0", "open", ["waited"])


@pytest.fixture(scope="module")
def snapshot(server: ServerProcess, fleet: dict[str, str], plugin: Plugin) -> Snapshot:
    """The workers at a moment, and when that was."""
    for worker in ("open:0", "closed:0"):
        server.call("workers.status_report", worker=worker, timestamp=0)
    workers = plugin("module_utils.clearml_workers").workers_in(server.call("workers.get_all"))
    return workers, datetime.now(UTC).timestamp()


@pytest.mark.parametrize(
    ("wanted", "lack"),
    [
        ({"worker": "open:0", "wait_for": "registered"}, ""),
        (
            {
                "worker": "open:0",
                "wait_for": "registered",
                "version": "0.1.0",
                "registered_after": "2026-01-01T00:00:00Z",
            },
            "",
        ),
        ({"worker": "open:0", "wait_for": "registered", "registered_after": ""}, ""),
        (
            {"worker": "open:0", "wait_for": "registered", "version": "0.2.0"},
            "its version is 0.1.0, and 0.2.0 is wanted",
        ),
        (
            {"worker": "closed:0", "wait_for": "registered", "version": "0.2"},
            "its version is not told by its tags, and 0.2 is wanted",
        ),
        (
            {"worker": "open:0", "wait_for": "registered", "registered_after": "2036-01-01T00:00Z"},
            "which is not after 2036-01-01T00:00Z",
        ),
        ({"worker": "nobody:0", "wait_for": "registered"}, "it is not on the server's list"),
        ({"worker": "open:0", "wait_for": "open"}, ""),
        ({"worker": "opened:0", "wait_for": "open"}, ""),
        ({"worker": "closed:0", "wait_for": "open"}, "it is closed until 2036-11-24T08:00+01:00"),
        ({"worker": "lacking:0", "wait_for": "open"}, "it is waiting: no memory"),
        ({"worker": "nobody:0", "wait_for": "open"}, "it is not on the server's list"),
        ({"worker": "closed:0", "wait_for": "closed"}, ""),
        ({"worker": "forced:0", "wait_for": "closed"}, ""),
        ({"worker": "broken:0", "wait_for": "closed"}, ""),
        ({"worker": "paused:0", "wait_for": "closed"}, ""),
        ({"worker": "pool:dgpu0,1", "wait_for": "closed"}, ""),
        ({"worker": "open:0", "wait_for": "closed"}, "it is idle"),
        ({"worker": "lacking:0", "wait_for": "closed"}, "it is waiting: no memory"),
        ({"worker": "nobody:0", "wait_for": "closed"}, "it is not on the server's list"),
        ({"worker": "open:0", "wait_for": "idle"}, ""),
        ({"worker": "nobody:0", "wait_for": "idle"}, ""),
        ({"worker": "crew:0", "wait_for": "idle"}, "crew:0:service:1 runs task "),
        ({"worker": "crew:0:service:1", "wait_for": "idle"}, "crew:0:service:1 runs task "),
        ({"worker": "pool:dgpu0,1", "wait_for": "idle"}, "pool:gpu1 runs task "),
        ({"worker": "pool:dgpu2,3", "wait_for": "idle"}, ""),
        ({"worker": "nobody:0", "wait_for": "gone"}, ""),
        ({"worker": "open:0", "wait_for": "gone"}, "it is on the server's list, idle, reported at 20"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_what_a_worker_lacks_is_told(snapshot: Snapshot, plugin: Plugin, wanted: dict[str, str], lack: str) -> None:
    options = {"version": None, "registered_after": None, **wanted}
    told = plugin("modules.clearml_worker").LACKS[options["wait_for"]](options, *snapshot)
    assert lack in told
    assert bool(lack) == bool(told)


def test_the_collection_reads_the_tags_that_agents_write(plugin: Plugin) -> None:
    about = plugin("module_utils.clearml_workers")
    assert tuple(Standing) == about.STANDINGS
    stand = Stand(standing=Standing.CORDONED, why="GPU 1 is lost")
    told = about.worker_in({"id": "node1:gpu1", "tags": [VERSION_TAG, stand.tag]})
    assert (told["standing"], told["why"], told["version"]) == ("cordoned", stand.why, VERSION_TAG.split()[1])


def test_the_agents_of_sub_workers_are_found_by_their_ids(plugin: Plugin) -> None:
    about = plugin("module_utils.clearml_workers")
    parents = {
        "a:0": "",
        "a:0:service:1": "a:0",
        "b:0:service:1": "",  # its agent is gone
        "c:dgpu0,1": "",
        "c:dgpu2,3": "",
        "c:gpu1": "c:dgpu0,1",
        "c:gpu2.1": "c:dgpu2,3",
        "c:gpu4": "",
        "d:dgpuall": "",
        "d:gpu7": "d:dgpuall",
        "e:gpu0:1": "",
    }
    assert about.parents_of(list(parents)) == parents


def _scripted(*fleets: list[dict[str, Any]] | int) -> tuple[Answer, list[str]]:
    """A server that tells one fleet after the other and stays with the last; a number is a failure of that status."""
    calls: list[str] = []
    left = list(fleets)

    def answer(path: str, _headers: dict[str, str], _body: bytes) -> tuple[int, bytes]:
        calls.append(path.lstrip("/"))
        if path == "/auth.login":
            return envelope({"token": TOKEN})
        if path == "/workers.get_runtime_properties":
            return envelope({"runtime_properties": []})
        fleet = left.pop(0) if len(left) > 1 else left[0]
        return (fleet, b"down for maintenance") if isinstance(fleet, int) else envelope({"workers": fleet})

    return answer, calls


def _reported(worker: str, registered: datetime, *, task: str = "", **more: Any) -> dict[str, Any]:
    text = registered.isoformat()
    ran = {"task": {"id": task, "name": "train"}} if task else {}
    return {"id": worker, "register_time": text, "last_activity_time": text, **ran, **more}


def test_waiting_outlasts_a_restart_of_the_server_and_ends_when_the_new_agent_is_there(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    before, old = now - timedelta(seconds=30), now - timedelta(seconds=500)
    silent = [_reported("node1:0", old, tags=[VERSION])]
    answer, calls = _scripted(
        [_reported("node1:0", old, task="abc", last_report_time=now.isoformat())],
        503,
        [],
        silent,
        [_reported("node1:0", before, tags=[VERSION])],
        [_reported("node1:0", now + timedelta(minutes=5), tags=[VERSION])],
    )
    with http_stub(answer) as api:
        ansible = Ansible(tmp_path, CLEARML_API_HOST=api, CLEARML_API_ACCESS_KEY="K", CLEARML_API_SECRET_KEY="S")
        wanted = {"worker": "node1:0", "wait_for": "registered", "version": "0.1.0", "interval": 0.01}
        results = ansible.results({"new": {"clearml_worker": {**wanted, "registered_after": before.isoformat()}}})
    assert results["new"]["worker"]["version"] == "0.1.0", results
    assert results["new"]["waited_seconds"] < 60
    assert calls.count("workers.get_all") == 7  # six fleets, and the last one again for the result


def test_a_worker_that_was_silent_for_a_minute_does_not_count_as_registered(plugin: Plugin) -> None:
    module, about = plugin("modules.clearml_worker"), plugin("module_utils.clearml_workers")
    then = datetime.now(UTC)
    workers = about.workers_in({"workers": [_reported("node1:0", then)]})
    options = {"worker": "node1:0", "version": None, "registered_after": None}
    lacks = [module.lack_of_registered(options, workers, then.timestamp() + seconds) for seconds in (59, 61)]
    assert lacks == ["", "it has not reported for 61 s"]


# --- information


def test_the_fleet_is_told_of_in_order_with_gpus_and_queues(ansible: Ansible, server: ServerProcess) -> None:
    busy, empty = server.new_queue("info busy"), server.new_queue("info empty")
    server.call("tasks.enqueue", task=server.new_task(), queue=busy)
    server.call(
        "workers.register", worker="info:gpu10", queues=[busy, empty], tags=["forced off until 2036-01-01T00:00Z"]
    )
    server.call("workers.register", worker="info:gpu2", queues=[busy], tags=[VERSION, "waiting: no memory"])
    stats = {"gpu_usage": [40, 60], "gpu_memory_used": [1000, 500], "gpu_memory_free": [9000, 9500]}
    server.call("workers.status_report", worker="info:gpu2", timestamp=0, machine_stats=stats)
    set_force = [{"key": "force", "value": "off", "expiry": 500}]
    server.call("workers.set_runtime_properties", worker="info:gpu10", runtime_properties=set_force)
    results = ansible.results(
        {
            "some": {"clearml_worker_info": {"patterns": ["info:*"], "with_force": True}, "check_mode": True},
            "one": {"clearml_worker_info": {"patterns": ["info:gpu1?", "nobody"]}},
        }
    )
    assert _changed(results) == []
    second, tenth = results["some"]["workers"]
    assert (second["id"], tenth["id"]) == ("info:gpu2", "info:gpu10")
    assert (second["standing"], second["why"], second["version"]) == ("waiting", "no memory", "0.1.0")
    assert second["gpus"] == {
        "names": ["2"],
        "count": 2,
        "usage_percent": 50.0,
        "memory_used_mib": 1500.0,
        "memory_total_mib": 20000.0,
    }
    assert (tenth["state"], tenth["until"]) == ("forced off", "2036-01-01T00:00Z")
    assert tenth["queues"] == ["info busy", "info empty"]
    assert tenth["force"]["value"] == "off"
    assert 490 < tenth["force"]["seconds_left"] <= 500
    assert [worker["id"] for worker in results["one"]["workers"]] == ["info:gpu10"]
    queues = {queue["name"]: queue for queue in results["one"]["queues"]}
    assert queues["info busy"] == {"id": busy, "name": "info busy", "tags": [], "waiting": 1}
    assert queues["info empty"]["waiting"] == 0


# --- connection


def test_what_is_wrong_with_the_connection_is_told_in_words(ansible: Ansible, server: ServerProcess) -> None:
    with http_stub(lambda *_: (200, b"<html>a page</html>")) as page:
        results = ansible.results(
            {
                "wrong_key": {"clearml_worker_info": {"access_key": "WRONG", "secret_key": "not-the-one"}},
                "unreachable": {"clearml_worker_info": {"api_server": NOWHERE}},
                "not_an_api": {"clearml_worker_info": {"api_server": page}},
                "no_url": {"clearml_worker_info": {"api_server": "clearml:8008"}},
                "no_ca": {"clearml_worker_info": {"ca_path": "/nowhere/ca.pem"}},
                "short_name": {"clearml_queue": {"name": "ab"}},
                "option_beats_variable": {
                    "clearml_worker_info": {"api_server": server.api},
                    "environment": {"CLEARML_API_HOST": NOWHERE},
                },
                "missing": {"clearml_worker_info": {}, "environment": {"CLEARML_API_HOST": ""}},
            }
        )
    assert f"the server {server.api} does not accept the credentials with the access key 'WRONG'" in _msg(
        results, "wrong_key"
    )
    assert "Check access_key and secret_key" in _msg(results, "wrong_key")
    unreachable = _msg(results, "unreachable")
    assert unreachable.startswith(f"cannot reach the server {NOWHERE} (auth.login): ")
    assert "refused" in unreachable
    assert unreachable.endswith("Is api_server right, and is the server running?")
    assert "is none of an API server. Is api_server the address of the API server" in _msg(results, "not_an_api")
    assert "api_server is not an http(s) URL: 'clearml:8008'" in _msg(results, "no_url")
    assert "ca_path names no file: /nowhere/ca.pem" in _msg(results, "no_ca")
    assert "(queues.create) answers 400/800: " in _msg(results, "short_name")
    assert not results["option_beats_variable"]["failed"]
    assert "api_server" in _msg(results, "missing")


def test_the_secret_is_in_no_output_however_much_is_asked_for(tmp_path: Path, server: ServerProcess) -> None:
    given = {"api_server": server.api, "access_key": server.access_key, "secret_key": server.secret_key}
    ansible = Ansible(tmp_path)
    played = ansible.play(
        {
            "queue": {"clearml_queue": {**given, "name": "secretive"}},
            "failed": {"clearml_worker": {**given, "worker": "nobody:0", "wait_for": "open", "timeout": 0}},
        },
        "-vvv",
    )
    listed = ansible.inventory(json.dumps({"plugin": f"{COLLECTION}.clearml_workers", **given}), "-vvv")
    assert listed.returncode == 0, listed.stderr
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in played.stdout
    basic = base64.b64encode(f"{server.access_key}:{server.secret_key}".encode()).decode()
    for text in (played.stdout, played.stderr, listed.stdout, listed.stderr):
        assert server.secret_key not in text
        assert basic not in text


# --- inventory


def test_hosts_of_workers_are_grouped_by_queue_gpus_and_state(ansible: Ansible, server: ServerProcess) -> None:
    queue, other = server.new_queue("night shift/a"), server.new_queue("inv")
    server.call("workers.register", worker="inv1:gpu0", queues=[queue], tags=["H100"])
    server.call("workers.register", worker="inv1:gpu1", queues=[queue, other], tags=["closed"])
    server.call("workers.register", worker="inv2:dgpu0,1,2,3", queues=[other], tags=["draining", VERSION])
    server.call("workers.register", worker="inv3:0", queues=[other], tags=["{{ lookup('pipe', 'echo run') }}"])
    server.call("workers.register", worker="other:0", queues=[other])
    _running(server, "inv2:gpu0,1", "train")
    listed = ansible.inventory(
        """
        plugin: gpufleet.clearml.clearml_workers
        patterns: ["inv*", "nobody"]
        group_prefix: c-
        strict: true
        compose: {first_worker: "clearml_workers[0].id"}
        groups: {busy: "clearml_workers | selectattr('runs') | length > 0"}
        keyed_groups: [{key: "clearml_workers | map(attribute='version') | select | unique | list", prefix: agent}]
        """
    )
    assert listed.returncode == 0, listed.stderr
    told = plain(json.loads(listed.stdout))
    hosts = {name: group["hosts"] for name, group in told.items() if "hosts" in group}
    assert hosts == {
        "c_queue_night_shift_a": ["inv1"],
        "c_queue_inv": ["inv1", "inv2", "inv3"],
        "c_gpus_2": ["inv1"],
        "c_gpus_4": ["inv2"],
        "c_state_idle": ["inv1", "inv3"],
        "c_state_closed": ["inv1"],
        "c_state_running": ["inv2"],
        "c_state_draining": ["inv2"],
        "busy": ["inv2"],
        "agent_0_1_0": ["inv2"],
    }
    variables = told["_meta"]["hostvars"]
    assert [worker["id"] for worker in variables["inv1"]["clearml_workers"]] == ["inv1:gpu0", "inv1:gpu1"]
    assert variables["inv2"]["first_worker"] == "inv2:dgpu0,1,2,3"
    assert "{{ lookup(" in str(variables["inv3"]["clearml_workers"][0]["tags"])


def test_the_inventory_takes_templates_and_says_what_is_wrong(tmp_path: Path, server: ServerProcess) -> None:
    server.call("workers.register", worker="templated:0", queues=[])
    ansible = Ansible(tmp_path, THE_SECRET=server.secret_key)
    plugin = f"plugin: {COLLECTION}.clearml_workers\naccess_key: {server.access_key}\n"
    secret = "secret_key: \"{{ lookup('env', 'THE_SECRET') }}\"\n"
    good = ansible.inventory(f"{plugin}{secret}api_server: {server.api}\n", name="gpu.clearml_workers.yaml")
    assert good.returncode == 0, good.stderr
    assert "templated" in json.loads(good.stdout)["_meta"]["hostvars"]
    wrong = ansible.inventory(f"{plugin}secret_key: wrong\napi_server: {server.api}\n")
    assert wrong.returncode != 0
    assert "does not accept the credentials" in " ".join(wrong.stderr.split())
    named = ansible.inventory(f"{plugin}{secret}api_server: {server.api}\n", name="fleet.yml")
    assert "templated" not in named.stdout


def test_a_cached_inventory_is_read_without_the_server(tmp_path: Path, server: ServerProcess) -> None:
    server.call("workers.register", worker="cached:0", queues=[])
    text = f"plugin: {COLLECTION}.clearml_workers\ncache: true\ncache_plugin: jsonfile\n"
    text += f"cache_connection: {tmp_path}/cache\n"
    first = Ansible(tmp_path, **_credentials(server)).inventory(text)
    assert first.returncode == 0, first.stderr
    away = Ansible(tmp_path, **_credentials(server, NOWHERE))
    again = away.inventory(text)
    assert json.loads(again.stdout)["_meta"] == json.loads(first.stdout)["_meta"]
    (tmp_path / "all.yml").write_text("[{hosts: all}]\n")
    flushed = away.run("ansible-playbook", "--flush-cache", "--list-hosts", "-i", "clearml_workers.yml", "all.yml")
    assert "cannot reach the server" in " ".join(flushed.stderr.split())


# --- documentation


def test_every_plugin_has_documentation_that_ansible_reads(tmp_path: Path) -> None:
    ansible = Ansible(tmp_path)
    modules = [f"{COLLECTION}.{path.stem}" for path in sorted((PLUGINS / "modules").glob("clearml_*.py"))]
    told = ansible.run("ansible-doc", "--json", *modules)
    inventory = ansible.run("ansible-doc", "--json", "-t", "inventory", f"{COLLECTION}.clearml_workers")
    documents = {**json.loads(told.stdout), **json.loads(inventory.stdout)}
    assert set(modules) < documents.keys()
    for name, document in documents.items():
        assert {"api_server", "secret_key", "ca_path"} < document["doc"]["options"].keys(), name
        assert document["doc"]["version_added"] == "0.1.0"
        assert document["examples"]
    variables = documents[f"{COLLECTION}.clearml_workers"]["doc"]["options"]["secret_key"]["env"]
    assert variables == [{"name": "CLEARML_API_SECRET_KEY"}]


# --- pure functions


@pytest.fixture(scope="module")
def api(plugin: Plugin) -> ModuleType:
    """How the plugins talk to a server."""
    return plugin("module_utils.clearml_api")


@pytest.fixture(scope="module")
def force(plugin: Plugin) -> ModuleType:
    """What they know about the property `force`, durations and times."""
    return plugin("module_utils.clearml_force")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("0.5h", 1800),
        (" 2h ", 7200),
    ],
)
def test_durations_are_read(force: ModuleType, text: str, seconds: float) -> None:
    assert force.duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 m", "2w", "h", "1h30", "0", "0s"])
def test_what_is_no_duration_is_refused(force: ModuleType, text: str) -> None:
    with pytest.raises(force.ClearmlError, match="expires_in is no"):
        force.duration_seconds(text, "expires_in")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T08:00:00+01:00",
        "2026-11-22 08:00:00+0100",
        "2026-11-22T07:00Z",
        "2026-11-22T07:00:00.000000+00:00",
        "1795330800",
        "1795330800.0",
    ],
)
def test_times_are_read(force: ModuleType, text: str) -> None:
    assert force.moment_seconds(text) == datetime(2026, 11, 22, 7, tzinfo=UTC).timestamp()


def test_fractions_of_seconds_count(force: ModuleType) -> None:
    assert force.moment_seconds("2026-11-22T07:00:00.25Z") - force.moment_seconds("2026-11-22T07:00:00Z") == 0.25


@pytest.mark.parametrize("text", ["", "noon", "2026-11-22", "2026-11-22T08:00:00", "2026-13-22T08:00:00Z"])
def test_a_time_without_an_offset_is_refused(force: ModuleType, text: str) -> None:
    with pytest.raises(force.ClearmlError, match="is no time with an offset"):
        force.moment_seconds(text)


@pytest.mark.parametrize(
    ("present", "wanted", "is_needed"),
    [
        (("none", None), ("none", None), False),
        (("on", None), ("none", None), True),
        (("on", 100), ("none", None), True),
        (("none", None), ("on", None), True),
        (("on", None), ("on", None), False),
        (("on", 100), ("on", None), True),
        (("on", None), ("on", 100), True),
        (("off", 3600), ("on", 3600), True),
        (("on", 3600), ("on", 3600), False),
        (("on", 3540), ("on", 3600), False),
        (("on", 3539), ("on", 3600), True),
        (("on", 3601), ("on", 3600), True),
    ],
)
def test_a_force_is_set_when_another_one_is_wanted_or_too_little_or_too_much_is_left(
    force: ModuleType, present: tuple[str, int | None], wanted: tuple[str, int | None], is_needed: bool
) -> None:
    told = {"value": present[0], "seconds_left": present[1]}
    assert force.needs_force(told, *wanted, earlier=60) is is_needed


def test_a_force_until_a_moment_may_end_a_little_later(force: ModuleType) -> None:
    assert not force.needs_force({"value": "on", "seconds_left": 3660}, "on", 3600, earlier=60, later=60)


@pytest.mark.parametrize(("issued", "ahead"), [(None, 0), (99, 0), (100, 0), (101, 0), (161, 61), (41, -59)], ids=str)
def test_the_clock_of_the_server_is_told_by_its_token(api: ModuleType, issued: int | None, ahead: float) -> None:
    assert api.seconds_ahead(issued, 100.0, 101.0) == ahead


def test_a_token_that_tells_no_time_is_no_error(api: ModuleType) -> None:
    claims = base64.urlsafe_b64encode(b'{"iat": 1795330800}').decode().rstrip("=")
    assert api.issued_at(f"e30.{claims}.c2ln") == 1795330800
    assert [api.issued_at(token) for token in (TOKEN, "no token", "a.b.c", "a.%.c")] == [None] * 4


def test_a_bad_moment_of_the_server_is_outlasted_by_reading_and_by_nothing_else(api: ModuleType) -> None:
    for endpoint, attempts in (("read", 3), ("call", 1)):
        answers = iter([envelope({"token": TOKEN}), (502, b""), (502, b""), envelope({"workers": []})])
        with http_stub(lambda *_, answers=answers: next(answers)) as address:
            pauses: list[float] = []
            server = api.Server(address, "KEY", "the-secret", sleep=pauses.append)
            outcome = _outcome(lambda server=server, endpoint=endpoint: getattr(server, endpoint)("workers.get_all"))
        assert len(pauses) == attempts - 1
        assert outcome == ({"workers": []} if attempts > 1 else f"the server {address} (workers.get_all) answers 502")


def test_a_token_that_has_run_out_is_fetched_anew_once(api: ModuleType) -> None:
    refusal = envelope(code=401, subcode=30, message="Unauthorized (invalid token)")
    logins = [envelope({"token": TOKEN})] * 2
    answers = iter([logins[0], envelope({"n": 1}), refusal, logins[1], envelope({"n": 2}), refusal, logins[0], refusal])
    with http_stub(lambda *_: next(answers)) as address:
        server = api.Server(address, "KEY", "the-secret")
        assert [server.read("workers.get_all"), server.read("workers.get_all")] == [{"n": 1}, {"n": 2}]
        assert "answers 401/30: Unauthorized" in _outcome(lambda: server.read("workers.get_all"))


def test_an_answer_that_redirects_is_not_followed(api: ModuleType) -> None:
    with http_stub(lambda *_: (302, b"")) as address:
        outcome = _outcome(lambda: api.Server(address, "KEY", "the-secret").read("workers.get_all"))
    assert outcome.startswith(f"the answer of {address} (auth.login) (302) is none of an API server")


def _outcome(work: Callable[[], Any]) -> Any:
    """What it returns, or the error in words."""
    try:
        return work()
    except Exception as error:
        return str(error)


def test_the_modules_need_no_younger_python_than_they_say() -> None:
    import ast

    for path in PLUGINS.rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))
