"""Who has which GPU: leases that last as long as anybody holds them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.gpu import leases as module
from agent.gpu.leases import Leases, leases_folder


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path)


def _taken(descriptor: int | None) -> int:
    assert descriptor is not None
    return descriptor


def test_a_gpu_is_had_alone_or_shared_and_never_both(leases: Leases) -> None:
    shared = [_taken(leases.take("GPU-1", alone=False)) for _ in range(2)]
    assert leases.take("GPU-1", alone=True) is None
    assert not leases.is_free("GPU-1")
    for descriptor in shared:
        os.close(descriptor)
    assert leases.is_free("GPU-1")
    alone = _taken(leases.take("GPU-1", alone=True))
    assert leases.take("GPU-1", alone=False) is None
    assert leases.is_free("GPU-2")
    os.close(alone)


@pytest.mark.parametrize("kind", ["alone", "percents"])
def test_a_lease_lasts_until_the_last_process_that_holds_it_has_ended(leases: Leases, kind: str) -> None:
    def take() -> int | None:
        return leases.take("GPU-1", alone=True) if kind == "alone" else leases.take_percents("GPU-1", 60)

    descriptor = _taken(take())
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
    )
    os.close(descriptor)
    assert take() is None
    child.communicate()
    os.close(_taken(take()))


def test_the_percents_of_a_gpu_are_no_more_than_a_hundred(leases: Leases) -> None:
    held = [_taken(leases.take_percents("GPU-1", part)) for part in (50, 33)]
    assert leases.take_percents("GPU-1", 20) is None
    held.append(_taken(leases.take_percents("GPU-1", 17)))
    assert leases.take_percents("GPU-1", 1) is None
    os.close(held.pop(0))
    held.append(_taken(leases.take_percents("GPU-1", 50)))
    for descriptor in held:
        os.close(descriptor)


def test_the_place_of_the_leases_is_for_everybody_and_nobody_can_remove_what_others_made(tmp_path: Path) -> None:
    folder, is_shared = leases_folder(str(tmp_path / "shared"), tmp_path / "state")
    assert (folder, is_shared) == (tmp_path / "shared", True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    os.close(_taken(Leases(folder).take("GPU-1", alone=True)))
    assert stat.S_IMODE((folder / "GPU-1.lock").stat().st_mode) == 0o666


def test_without_a_shared_place_the_leases_are_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "SHARED_PLACE", tmp_path / "file" / "leases")
    assert leases_folder("", tmp_path / "state") == (tmp_path / "state" / "gpus", False)
