"""Run molecule's scenarios one after the other, and say at the end what came of each.

    .venv/bin/python molecule/run.py                    all scenarios
    .venv/bin/python molecule/run.py default schedule   some
    .venv/bin/python molecule/run.py --keep default     the hosts stay: look around, then `--destroy default`

Everything that molecule and ansible write goes to .cache below this checkout, and nothing is asked of Galaxy. The hosts
are gone afterwards whatever happened, Ctrl-C included, unless they are to be kept. What they install is made of the
present sources first: a wheelhouse (tools/wheelhouse.sh), whose folder the scenarios have from GPUFLEET_WHEELHOUSE.

Two things are demanded of a scenario beyond molecule's own exit status: the check run after a converge finds nothing
to change on any host, and every phase that the scenario's sequence names has run.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
CACHE = ROOT / ".cache" / "molecule"
COLLECTION = ROOT / "ansible"
BASE = HERE / "common" / "base.yml"
COLUMNS = ("create", "prepare", "converge", "idempotence", "check", "side_effect", "verify", "destroy")
STOP_SECONDS = 15.0
#: What a wheelhouse is made of.
SOURCES = ("agent", "apiserver", "supervisor_gen", "systemd", "pyproject.toml", "README.md", "LICENSE", "tools")
UNUSED_SECONDS = 2 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One playbook that ran to its end."""

    name: str
    seconds: float
    failed: bool
    changed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a scenario; `complaint` is empty if all is well."""

    scenario: str
    seconds: float
    phases: Sequence[Phase]
    complaint: str


def main() -> int:
    known = sorted(path.parent.name for path in HERE.glob("*/molecule.yml"))
    parser = argparse.ArgumentParser(description="Run molecule's scenarios.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(known)}; all if none is named")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--keep", action="store_true", help="leave the hosts running")
    what.add_argument("--destroy", action="store_true", help="only end hosts that were kept")
    asked = parser.parse_args()
    if unknown := set(asked.scenarios) - set(known):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    scenarios = asked.scenarios or known
    if asked.destroy:
        for scenario in scenarios:
            end_hosts(scenario)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    results: list[Result] = []
    wheels = wheelhouse()
    try:
        for scenario in scenarios:
            results.append(run(scenario, wheels, keep=asked.keep))
    except KeyboardInterrupt:
        results.append(Result(scenario=scenario, seconds=0, phases=(), complaint="interrupted"))
        return 130
    finally:
        print(table(results), flush=True)
    return 1 if any(result.complaint for result in results) else 0


def run(scenario: str, wheels: Path, *, keep: bool) -> Result:
    """One scenario from nothing to nothing; with `keep` its hosts stay."""
    end_hosts(scenario)
    os.utime(wheels)
    folder = ephemeral(scenario)
    folder.mkdir(parents=True)
    link_collection()
    record = CACHE / f"{scenario}.phases.jsonl"  # beside that folder, which molecule empties
    record.unlink(missing_ok=True)
    words = [str(BIN / "molecule"), "--base-config", str(BASE), "test", "--scenario-name", scenario]
    words.append(f"--destroy={'never' if keep else 'always'}")
    began = time.monotonic()
    try:
        status = run_to_end(words, environ(scenario, record, wheels))
        phases = tuple(phases_of(record))
        complaint = complaint_about(status, phases, expected=sequence_of(scenario, keep=keep))
        return Result(scenario=scenario, seconds=time.monotonic() - began, phases=phases, complaint=complaint)
    finally:
        if not keep:
            with undisturbed():
                end_hosts(scenario)


def ephemeral(scenario: str) -> Path:
    """Where molecule keeps what it knows of a scenario, and hosts.py of its hosts."""
    return CACHE / scenario


def environ(scenario: str, record: Path, wheels: Path) -> dict[str, str]:
    """What molecule and ansible are told; a person's own settings of either are not heeded."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    colour = {} if sys.stdout.isatty() else {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    return {
        **inherited,
        **colour,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(ROOT / ".cache" / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(CACHE / "collections"),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "common" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "phases",
        "GPUFLEET_PHASES": str(record),
        "GPUFLEET_WHEELHOUSE": str(wheels),
        "MOLECULE_EPHEMERAL_DIRECTORY": str(ephemeral(scenario)),
        "MOLECULE_COMMAND_BORDERS": "0",
    }


def wheelhouse() -> Path:
    """A folder of wheels made of the sources as they are. Others may be at work with wheels of sources as they were:
    each state has a folder of its own, which goes when nobody has asked for it of late.
    """
    place = CACHE / "wheelhouse"
    folder = place / state_of_the_sources()
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            subprocess.run([str(ROOT / "tools" / "wheelhouse.sh"), str(folder)], stdin=subprocess.DEVNULL, check=True)
        os.utime(folder)
        for old in place.glob("*/"):
            if time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def state_of_the_sources() -> str:
    """The same for the same sources."""
    digest = hashlib.sha256()
    for source in (ROOT / name for name in SOURCES):
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def link_collection() -> None:
    """Where ansible looks for collections it finds ours as it is in this checkout."""
    galaxy = COLLECTION / "galaxy.yml"
    if galaxy.exists():
        about = yaml.safe_load(galaxy.read_text())
        place = CACHE / "collections" / "ansible_collections" / about["namespace"] / about["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.unlink(missing_ok=True)
            place.symlink_to(COLLECTION)


def run_to_end(words: Sequence[str], env: Mapping[str, str]) -> int:
    """In a session of its own: Ctrl-C reaches us alone, and we stop all of it before we go on."""
    process = subprocess.Popen(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with undisturbed():
            _stop(process)
        raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without a second Ctrl-C half-way."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def end_hosts(scenario: str) -> None:
    """Whatever molecule has done of that already."""
    words = [sys.executable, str(HERE / "hosts.py"), "down", "--state", str(ephemeral(scenario) / "hosts")]
    subprocess.run(words, stdin=subprocess.DEVNULL, check=True)
    shutil.rmtree(ephemeral(scenario), ignore_errors=True)


# --- what came of it


def phases_of(record: Path) -> Iterator[Phase]:
    """The phases by molecule's names: it runs converge.yml for three of them. What clears up at first is left out."""
    seen: set[str] = set()
    for line in record.read_text().splitlines() if record.exists() else ():
        ran: dict[str, Any] = json.loads(line)
        name = ran["playbook"]
        if name == "converge" and ran["check_mode"]:
            name = "check"
        elif name in seen and name == "converge":
            name = "idempotence"
        if name == "destroy" and not seen:
            continue
        seen.add(name)
        yield Phase(
            name=name,
            seconds=ran["seconds"],
            failed=any(summary["failures"] or summary["unreachable"] for summary in ran["hosts"].values()),
            changed={host: summary["changed"] for host, summary in ran["hosts"].items() if summary["changed"]},
        )


def sequence_of(scenario: str, *, keep: bool) -> set[str]:
    """The phases that a scenario asks for."""
    settings = [yaml.safe_load(path.read_text()) for path in (HERE / scenario / "molecule.yml", BASE)]
    named = next(each["scenario"]["test_sequence"] for each in settings if "test_sequence" in each.get("scenario", {}))
    return set(named) & set(COLUMNS) - ({"destroy"} if keep else set())


def complaint_about(status: int, phases: Sequence[Phase], *, expected: set[str]) -> str:
    """Empty if all is well."""
    by_name = {phase.name: phase for phase in phases}
    if failed := [phase.name for phase in phases if phase.failed]:
        return f"failed: {', '.join(failed)}"
    for name, what in (("idempotence", "a second converge changed"), ("check", "check would change")):
        if name in by_name and (changed := by_name[name].changed):
            return f"{what} {', '.join(f'{host} ({count})' for host, count in changed.items())}"
    if missing := [name for name in COLUMNS if name in expected - by_name.keys()]:
        return f"did not finish: {missing[0]}"
    return f"molecule exited with {status}" if status else ""


def table(results: Sequence[Result]) -> str:
    """A line per scenario, with the seconds that each phase took."""
    used = [name for name in COLUMNS if any(phase.name == name for result in results for phase in result.phases)]
    lines = [["scenario", *used, "total", "result"]]
    for result in results:
        seconds = {phase.name: f"{phase.seconds:.1f}" for phase in result.phases}
        times = [seconds.get(name, "-") for name in used]
        lines.append([result.scenario, *times, f"{result.seconds:.1f}", result.complaint or "ok"])
    widths = [max(len(line[column]) for line in lines) for column in range(len(used) + 2)]
    return "\n".join("  ".join(_aligned(line, widths)) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    yield line[0].ljust(widths[0])
    yield from (word.rjust(width) for word, width in zip(line[1:-1], widths[1:], strict=True))
    yield line[-1]


if __name__ == "__main__":
    sys.exit(main())
