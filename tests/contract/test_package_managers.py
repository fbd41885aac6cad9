"""What every installer promises: the same plan brings the same packages, and refusals say whose fault they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.wheels import make_wheel, offline

from agent.config import defaults
from agent.errors import SetupFailed
from agent.packages import KNOWN, pick, venv
from agent.packages.base import Host, PackageManager, Plan, Prefix
from agent.packages.interpreter import own
from agent.process.run import Commands
from agent.process.stop import StopSignal


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An installer, a fresh prefix and a folder of wheels it may install from."""

    manager: PackageManager
    prefix: Prefix
    shown: list[str]

    def python(self, code: str) -> str:
        return subprocess.run(
            [self.prefix.python, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()


@pytest.fixture(params=sorted(KNOWN))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "alpha", "1.0", requires=["beta>=1"])
    make_wheel(wheels, "beta", "1.0")
    make_wheel(wheels, "beta", "2.0", scripts={"beta-tool": "beta:main"}, data={"share/beta/x.txt": "x"})
    make_wheel(tmp_path / "other", "gamma", "1.0")
    (tmp_path / "scratch").mkdir()
    shown: list[str] = []
    base = defaults({}).agent
    settings = replace(base, package_manager=replace(base.package_manager, pip_version=()))
    with StopSignal() as stop:
        commands = Commands(
            environ=offline(os.environ, wheels=wheels, caches=tmp_path / "caches"),
            cwd=str(tmp_path / "scratch"),
            stop=stop,
            show=shown.append,
        )
        host = Host(commands=commands, facts=str(tmp_path / "facts"), scratch=str(tmp_path / "scratch"))
        manager = pick(request.param, settings, host)
        venv.write_environment(str(tmp_path / "env"), own())
        yield Bench(manager=manager, prefix=Prefix(folder=str(tmp_path / "env"), interpreter=own()), shown=shown)


def test_packages_and_what_they_need_are_installed(bench: Bench) -> None:
    bench.manager.install(Plan(needed=("alpha",)), bench.prefix)
    assert sorted(bench.manager.freeze(bench.prefix)) == ["alpha==1.0", "beta==2.0"]
    assert bench.python("import alpha, beta; print(beta.version)") == "2.0"
    assert Path(bench.prefix.folder, "bin/beta-tool").exists()
    assert Path(bench.prefix.folder, "share/beta/x.txt").read_text() == "x"


def test_constraints_limit_versions(bench: Bench) -> None:
    bench.manager.install(Plan(needed=("alpha",), constraints=("beta<2",)), bench.prefix)
    assert "beta==1.0" in bench.manager.freeze(bench.prefix)


def test_places_of_the_plan_are_searched_too(bench: Bench, tmp_path: Path) -> None:
    bench.manager.install(Plan(needed=("gamma",), find_links=(str(tmp_path / "other"),)), bench.prefix)
    assert bench.manager.freeze(bench.prefix) == ("gamma==1.0",)


def test_later_rounds_come_later(bench: Bench) -> None:
    bench.manager.install(Plan(needed=("beta==1.0",), after=("alpha",)), bench.prefix)
    assert sorted(bench.manager.freeze(bench.prefix)) == ["alpha==1.0", "beta==1.0"]


def test_a_failure_of_the_optional_round_is_only_told(bench: Bench) -> None:
    bench.manager.install(Plan(needed=("beta",), optional=("there-is-no-such-package",)), bench.prefix)
    assert bench.manager.freeze(bench.prefix) == ("beta==2.0",)
    assert "there-is-no-such-package was not installed" in " ".join(bench.shown)


@pytest.mark.parametrize("plan", [Plan(needed=("beta==99",)), Plan(after=("there-is-no-such-package",))])
def test_a_package_that_is_nowhere_is_the_tasks_fault(bench: Bench, plan: Plan) -> None:
    with pytest.raises(SetupFailed, match="cannot install") as failed:
        bench.manager.install(plan, bench.prefix)
    assert not failed.value.infrastructure
    assert "beta" in failed.value.details or "there-is-no-such-package" in failed.value.details


def test_identity_and_surrounding_are_stable(bench: Bench) -> None:
    assert bench.manager.identity().startswith(bench.manager.name)
    assert bench.manager.identity() == bench.manager.identity()
    assert bench.manager.surrounding() == bench.manager.surrounding()
    assert bench.manager.refusal() is None
