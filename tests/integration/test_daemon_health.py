"""A host that is not fit for tasks: real daemons on a real server, whose GPUs and disks break and heal while they run.

The GPUs are those of the fake NVML library, which reads its description again whenever it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import TypedDaemon, create_script, status_of, typed_daemon, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.fake_nvml import variables

OK = "print('done')\n"
HEALTH = "CLEARML_AGENT__AGENT__HEALTH__"
EVERY = {f"{HEALTH}INTERVAL_SEC": "0.2", "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


class Host:
    """GPUs that a test breaks and heals. `text` describes those that are well."""

    def __init__(self, folder: Path, text: str) -> None:
        self._folder = folder
        self._well = text
        self._events = folder / "xids"
        self._events.touch()
        self.heal()

    @property
    def environ(self) -> dict[str, str]:
        return {**variables(self._folder / "gpus.conf"), **EVERY}

    def say(self, more: str, *, system: str = "") -> None:
        """What the driver says from now on, besides that all is well."""
        fresh = self._folder / "new"
        fresh.write_text(f"{self._well}\n[system]\nevents = {self._events}\n{system}\n{more}\n")
        fresh.rename(self._folder / "gpus.conf")

    def heal(self) -> None:
        self.say("")

    def xid(self, gpu: int, number: int, *instance: int) -> None:
        with open(self._events, "a") as events:
            events.write(f"{' '.join(str(part) for part in (gpu, number, *instance))}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, "[gpu 0-3]\nnuma = 0\nrecovery_action = 0\n")


def _queue(server: ServerProcess, name: str) -> str:
    return str(server.call("queues.create", name=name)["id"])


def _cordon(server: ServerProcess, worker: str) -> str:
    """Why a worker is cordoned, as the server shows it; empty if it is not."""
    found = server.call("workers.get_all", last_seen=0, worker_pattern=worker)["workers"]
    tags = [tag for one in found if one["id"] == worker for tag in one["tags"]]
    return next((tag.removeprefix("cordoned: ") for tag in tags if tag.startswith("cordoned")), "")


def _wait_cordoned(server: ServerProcess, worker: str, why: str, *, seconds: float = 10.0) -> None:
    wait_for(lambda: why in _cordon(server, worker), seconds=seconds, what=f"{worker} says {why}")


def _wait_open(server: ServerProcess, worker: str) -> None:
    wait_for(lambda: not _cordon(server, worker), what=f"{worker} is open again, and not {_cordon(server, worker)}")


def _stays_queued(server: ServerProcess, *tasks: str, while_: TypedDaemon) -> None:
    """Long enough for several looks and rounds, none of which may have taken it."""
    import time

    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert [status_of(server, task) for task in tasks] == ["queued"] * len(tasks), while_.log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "broken", "why"),
    [
        ("lost", "error = 15", "GPU 1 (GPU-fa4e0000…) fell off the bus (NVML: GPU is lost)"),
        ("mute", "error = 999", "GPU 1 (GPU-fa4e0000…) does not answer (NVML: Unknown Error)"),
        ("action", "recovery_action = 1", "needs a reset (recovery action 1)"),
        ("reboot", "recovery_action = 2", "needs a reboot of its host (recovery action 2)"),
        ("ecc", "ecc_uncorrected = 2", "has 2 new uncorrected memory errors (ECC)"),
        ("pages", "retired_pages = 1", "has memory pages to retire at its next reset"),
        ("rows", "rows_pending = 1", "has memory rows to remap at its next reset"),
        ("norows", "rows_broken = 1", "has a broken memory row and no spare one"),
    ],
)
def test_a_sick_gpu_cordons_its_agent_until_it_is_well(
    server: ServerProcess, tmp_path: Path, host: Host, name: str, broken: str, why: str
) -> None:
    _queue(server, name)
    worker = f"{name}:gpu1"
    environ = {**host.environ, "CLEARML_WORKER_NAME": name}
    with typed_daemon(server, tmp_path / "d", "--gpus", "1", "--queue", name, environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue=name), "completed")
        host.say(f"[gpu 1]\n{broken}")
        _wait_cordoned(server, worker, why)
        task = create_script(server, OK, queue=name)
        _stays_queued(server, task, while_=daemon)
        said = [line for line in daemon.log.read_text().splitlines() if "cordoned: " in line]
        assert len(said) == 1, said
        host.heal()
        wait_for_status(server, task, "completed")
        _wait_open(server, worker)
