"""A host that is not fit for tasks: real daemons on a real server, whose GPUs and disks break and heal while they run.

The GPUs are those of the fake NVML library, which reads its description again whenever it changes.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from support.agent import TypedDaemon, console_of, create_script, status_of, typed_daemon, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.disks import needs_root, small_disk
from support.fake_nvml import CONFIGS, variables

OK = "print('done')\n"
SEES = "import os\nprint('sees', os.environ['CUDA_VISIBLE_DEVICES'])\n"
HEALTH = "CLEARML_AGENT__AGENT__HEALTH__"
EVERY = {f"{HEALTH}INTERVAL_SEC": "0.2", "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1"}


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
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert [status_of(server, task) for task in tasks] == ["queued"] * len(tasks), while_.log.read_text()
        time.sleep(0.1)


def _run(server: ServerProcess, source: str, queue: str) -> str:
    task = create_script(server, source, queue=queue)
    wait_for_status(server, task, "completed")
    return task


@pytest.mark.parametrize(
    "case",
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
    server: ServerProcess, tmp_path: Path, host: Host, case: tuple[str, str, str]
) -> None:
    name, broken, why = case
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


def test_a_gpu_that_is_lost_between_two_looks_gets_no_task_and_systemd_is_told_why(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "between")
    environ = {**host.environ, f"{HEALTH}INTERVAL_SEC": "1000", "CLEARML_WORKER_NAME": "between"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        _lose_between_two_looks(server, tmp_path, host, environ)
        while b"STATUS=waiting: cordoned: GPU 1 (GPU-" not in systemd.recv(4096):
            pass


def _lose_between_two_looks(server: ServerProcess, tmp_path: Path, host: Host, environ: dict[str, str]) -> None:
    with typed_daemon(server, tmp_path / "d", "--gpus", "1", "--queue", "between", environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue="between"), "completed")
        host.say("[gpu 1]\nerror = 15")
        task = create_script(server, OK, queue="between")
        _wait_cordoned(server, "between:gpu1", "fell off the bus")
        _stays_queued(server, task, while_=daemon)


def test_a_critical_xid_counts_through_a_restart_until_the_driver_wants_nothing_done(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "xid")
    environ = {**host.environ, "CLEARML_WORKER_NAME": "xid"}
    host.say("[gpu 0-3]\nrecovery_action = -1")
    with typed_daemon(server, tmp_path / "d", "--gpus", "0,1", "--queue", "xid", environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue="xid"), "completed")
        host.xid(0, 31)  # a task's own fault
        host.xid(2, 79)  # somebody else's GPU
        wait_for(lambda: "reported XID 31, which is ignored" in daemon.log.read_text(), what="it was heard")
        wait_for_status(server, create_script(server, OK, queue="xid"), "completed")
        host.xid(1, 48)
        _wait_cordoned(server, "xid:gpu0,1", "GPU 1 (GPU-fa4e0000…) reported XID 48")
        task = create_script(server, OK, queue="xid")
        daemon.end(signal.SIGKILL)
        daemon.restart()
        _wait_cordoned(server, "xid:gpu0,1", "GPU 1 (GPU-fa4e0000…) reported XID 48")
        _stays_queued(server, task, while_=daemon)
        host.heal()
        wait_for_status(server, task, "completed")
        _wait_open(server, "xid:gpu0,1")


def test_without_a_word_of_the_driver_a_gpu_is_used_again_when_it_has_been_quiet(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "quiet")
    host.say("[gpu 0]\nrecovery_action = -1")
    environ = {**host.environ, f"{HEALTH}XID_QUIET_SEC": "3", "CLEARML_WORKER_NAME": "quiet"}
    with typed_daemon(server, tmp_path / "d", "--gpus", "0", "--queue", "quiet", environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue="quiet"), "completed")
        host.xid(0, 74)
        _wait_cordoned(server, "quiet:gpu0", "reported XID 74")
        task = create_script(server, OK, queue="quiet")
        _stays_queued(server, task, while_=daemon)
        wait_for_status(server, task, "completed")


def test_a_sick_gpu_of_many_only_takes_itself_out(server: ServerProcess, tmp_path: Path, host: Host) -> None:
    _queue(server, "many")
    environ = {**host.environ, "CLEARML_WORKER_NAME": "many"}
    queue = ("--dynamic-gpus", "--gpus", "0-1", "--queue", "many=1-2")
    with typed_daemon(server, tmp_path / "d", *queue, environ=environ) as daemon:
        host.say("[gpu 0]\nerror = 15")
        wait_for(
            lambda: "GPU 0 is not given to tasks: it fell off the bus" in daemon.log.read_text(), what="it says so"
        )
        for _ in range(2):
            task = create_script(server, SEES, queue="many")
            wait_for_status(server, task, "completed")
            assert [line for line in console_of(server, task) if line.startswith("sees")] == ["sees 1"]
        assert not _cordon(server, "many:dgpu0,1")
        host.say("[gpu 0-1]\nerror = 15")
        _wait_cordoned(server, "many:dgpu0,1", "GPU 1 (GPU-fa4e0000…) fell off the bus")
        task = create_script(server, SEES, queue="many")
        _stays_queued(server, task, while_=daemon)
        host.heal()
        wait_for_status(server, task, "completed")
        wait_for(
            lambda: "sees 0,1" in console_of(server, _run(server, SEES, "many")), seconds=30, what="both are given"
        )


def test_an_xid_of_an_instance_concerns_it_alone_and_one_of_its_gpu_all(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "mig-1")
    _queue(server, "mig-2")
    host = Host(tmp_path, (CONFIGS / "2xa100-mig.conf").read_text())
    with (
        typed_daemon(
            server, tmp_path / "a", "--gpus", "0:1", "--queue", "mig-1",
            environ={**host.environ, "CLEARML_WORKER_ID": "mig:one"},
        ),
        typed_daemon(
            server, tmp_path / "b", "--gpus", "0:2", "--queue", "mig-2",
            environ={**host.environ, "CLEARML_WORKER_ID": "mig:two"},
        ),
    ):  # fmt: skip
        for queue in ("mig-1", "mig-2"):
            wait_for_status(server, create_script(server, OK, queue=queue), "completed")
        host.xid(0, 95, 8, 0)
        _wait_cordoned(server, "mig:one", "GPU 0:1 (MIG-fa4e0000…) reported XID 95")
        wait_for_status(server, create_script(server, OK, queue="mig-2"), "completed")
        assert not _cordon(server, "mig:two")
        host.xid(0, 48)
        _wait_cordoned(server, "mig:two", "GPU 0:2 (MIG-fa4e0000…) reported XID 48")


def test_a_driver_that_hangs_is_a_fault_and_holds_up_neither_the_agent_nor_its_end(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "hang")
    environ = {**host.environ, f"{HEALTH}ANSWER_SEC": "1", "CLEARML_WORKER_NAME": "hang"}
    with typed_daemon(server, tmp_path / "d", "--gpus", "0", "--queue", "hang", environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue="hang"), "completed")
        host.say("", system="hang = all")
        _wait_cordoned(server, "hang:gpu0", "the GPU driver has not answered for 1 s")
        task = create_script(server, OK, queue="hang")
        _stays_queued(server, task, while_=daemon)
        host.heal()
        wait_for_status(server, task, "completed")
        _wait_open(server, "hang:gpu0")
        host.say("", system="hang = all")
        _wait_cordoned(server, "hang:gpu0", "the GPU driver has not answered for 1 s")
        assert daemon.end(signal.SIGTERM, seconds=20) == 0


def test_gpus_that_are_shared_out_by_a_driver_that_hangs_are_not_and_the_agent_can_still_be_drained(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "stuck")
    environ = {**host.environ, f"{HEALTH}ANSWER_SEC": "1", "CLEARML_WORKER_NAME": "stuck"}
    queue = ("--dynamic-gpus", "--gpus", "0-1", "--queue", "stuck=1")
    with typed_daemon(server, tmp_path / "d", *queue, environ=environ) as daemon:
        wait_for_status(server, create_script(server, OK, queue="stuck"), "completed")
        host.say("", system="hang = all")
        task = create_script(server, OK, queue="stuck")
        _wait_cordoned(server, "stuck:dgpu0,1", "the GPU driver has not answered for 1 s")
        _stays_queued(server, task, while_=daemon)
        assert daemon.end(signal.SIGUSR1, seconds=20) == 0


@needs_root
def test_a_disk_without_room_cordons_until_it_has_some_to_spare(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "full")
    with small_disk(tmp_path / "disk", "40m") as disk:  # a tenth of it has to be free
        environ = {**EVERY, "CLEARML_WORKER_ID": "full:0", "TMPDIR": str(disk), f"{HEALTH}LEAST_FREE_DISK_GB": "0.1"}
        ballast = disk / "ballast"
        with typed_daemon(server, tmp_path / "d", "--cpu-only", "--queue", "full", environ=environ) as daemon:
            wait_for_status(server, create_script(server, OK, queue="full"), "completed")
            ballast.write_bytes(bytes(38 << 20))
            _wait_cordoned(server, "full:0", f"MiB free in {disk}, 4 MiB are wanted")
            task = create_script(server, OK, queue="full")
            os.truncate(ballast, 71 << 19)  # 4.5 MiB are free: as much as is wanted, and not enough to be sure
            _stays_queued(server, task, while_=daemon)
            ballast.unlink()
            wait_for_status(server, task, "completed")
            _wait_open(server, "full:0")


def test_after_some_failed_set_ups_in_a_row_there_is_a_pause_and_one_task_is_tried(
    server: ServerProcess, tmp_path: Path
) -> None:
    """The repository is on a host that is away; then tasks need none."""
    _queue(server, "streak")
    environ = {**EVERY, "CLEARML_WORKER_ID": "streak:0"}
    away = {"repository": "http://127.0.0.1:9/away.git", "branch": "main", "entry_point": "a.py", "diff": ""}
    with typed_daemon(server, tmp_path / "d", "--cpu-only", "--queue", "streak", environ=environ) as daemon:
        failing = [create_script(server, "", queue="streak", **away) for _ in range(4)]
        _wait_cordoned(server, "streak:0", "3 tasks in a row could not be set up here; last: ", seconds=60)
        assert [status_of(server, task) for task in failing].count("failed") == 3
        _stays_queued(server, failing[3], while_=daemon)
        server.call("tasks.dequeue", task=failing[3])
        task = create_script(server, OK, queue="streak")
        wait_for_status(server, task, "completed", seconds=60)  # the pause is half a minute
        _wait_open(server, "streak:0")


def test_an_agent_that_starts_without_its_gpu_waits_cordoned_and_works_once_it_is_there(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    """By index a GPU that is lost, by UUID one that is gone; the process stays the same."""
    for name, spec in (("index", "1"), ("uuid", "GPU-fa4e0000-0000-4000-8000-000000000001")):
        _queue(server, f"late-{name}")
        host.say("[gpu 1]\nerror = 15")
        environ = {**host.environ, "CLEARML_WORKER_ID": f"late:{name}"}
        task = create_script(server, SEES, queue=f"late-{name}")
        with typed_daemon(
            server, tmp_path / name, "--gpus", spec, "--queue", f"late-{name}", environ=environ
        ) as daemon:
            _wait_cordoned(server, f"late:{name}", "is missing: ")
            _stays_queued(server, task, while_=daemon)
            host.heal()
            wait_for_status(server, task, "completed")
            assert f"sees {spec}" in console_of(server, task)
            _wait_open(server, f"late:{name}")
            assert daemon.process.poll() is None
            assert daemon.end(signal.SIGTERM) == 0


def test_who_types_the_index_of_a_lost_gpu_is_told_at_once(server: ServerProcess, tmp_path: Path, host: Host) -> None:
    host.say("[gpu 1]\nerror = 15")
    daemon = TypedDaemon(server, tmp_path / "d", "--gpus", "1", environ=host.environ)
    assert daemon.process.wait(20) == 7, daemon.log.read_text()
    assert "GPU 1 does not answer" in daemon.log.read_text()


def test_gpus_are_shared_out_without_one_that_was_lost_before_the_start_until_it_is_back(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "rest")
    host.say("[gpu 0]\nerror = 15")
    environ = {**host.environ, "CLEARML_WORKER_ID": "rest:0"}
    queue = ("--dynamic-gpus", "--gpus", "0-1", "--queue", "rest=1-2")
    with typed_daemon(server, tmp_path / "d", *queue, environ=environ) as daemon:
        task = create_script(server, SEES, queue="rest")
        wait_for_status(server, task, "completed")
        assert "sees 1" in console_of(server, task)
        assert not _cordon(server, "rest:0")
        host.heal()
        wait_for(lambda: daemon.log.read_text().count("listens to") == 2, what="it has begun anew")
        task = create_script(server, SEES, queue="rest")
        wait_for_status(server, task, "completed")
        assert "sees 0,1" in console_of(server, task)


def test_a_task_that_fails_while_its_gpu_is_lost_has_failed_by_the_infrastructure(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    """Found out before the verdict, although the next look would be long after it."""
    _queue(server, "unlucky")
    gate = tmp_path / "gate"
    fails = f"import os, sys, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\nsys.exit(3)\n"
    environ = {**host.environ, "CLEARML_WORKER_NAME": "unlucky", f"{HEALTH}INTERVAL_SEC": "1000"}
    with typed_daemon(server, tmp_path / "d", "--gpus", "1", "--queue", "unlucky", environ=environ):
        task = create_script(server, fails, queue="unlucky")
        wait_for(lambda: list((tmp_path / "d").glob("runs/*/user.json")), what="the program runs")
        host.say("[gpu 1]\nerror = 15")
        gate.touch()
        ended = wait_for_status(server, task, "failed")
        assert ended["status_reason"].startswith("worker execution exit code 75: infrastructure failure: GPU 1 ")
        assert "fell off the bus" in ended["status_reason"]
        assert "the process ended with exit code 3" in ended["status_reason"]
        said = console_of(server, task)[-1]
        assert "fell off the bus" in said
        assert "failure of the infrastructure" in said


def test_a_task_runs_on_when_its_gpu_is_lost_and_the_next_one_waits(
    server: ServerProcess, tmp_path: Path, host: Host
) -> None:
    _queue(server, "ongoing")
    gate = tmp_path / "gate"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\n"
    environ = {**host.environ, "CLEARML_WORKER_NAME": "ongoing"}
    with typed_daemon(server, tmp_path / "d", "--gpus", "1", "--queue", "ongoing", environ=environ) as daemon:
        running = create_script(server, waits, queue="ongoing")
        wait_for_status(server, running, "in_progress")
        host.say("[gpu 1]\nerror = 15")
        _wait_cordoned(server, "ongoing:gpu1", "fell off the bus")
        task = create_script(server, OK, queue="ongoing")
        gate.touch()
        wait_for_status(server, running, "completed")
        _stays_queued(server, task, while_=daemon)
