"""Output of every kind and at any speed arrives whole: in order, nothing missing, nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.agent import AgentProcess, console_of, create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.invariants import Checker

from benchmarks.faultproxy import Fault, FaultProxy

MIB = 1024 * 1024

#: Writes whole lines of 1,000 bytes as fast as the pipe takes them.
FLOOD = """
import os, time
began, number = time.monotonic(), 0
while number < {lines}:
    block = b"".join(b"%09d " % n + b"x" * 989 + b"\\n" for n in range(number, number + 1000))
    while block:
        block = block[os.write(1, block):]
    number += 1000
print("MB a second: %.0f" % ({lines} / 1000 / (time.monotonic() - began)), flush=True)
"""

#: All bytes there are, torn across writes, as nobody should write them.
GARBAGE = """
import os
data = bytes(range(256)) * 40 + b"\\xf0\\x9f\\x98" + b"\\n"
data += "naïve ☃ 😀\\n".encode() * 50 + b"\\0\\x1b[31mred\\x1b[0m\\n"
for at in range(0, len(data), 7):
    os.write(1, data[at:at + 7])
os.write(1, b"the end\\n")
"""

ENDLESS_LINE = """
import os
for _ in range({mebibytes}):
    data = b"x" * 1024 * 1024
    while data:
        data = data[os.write(1, data):]
"""


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[FaultProxy]:
    with FaultProxy(server.api) as running:
        yield running


class Talkers:
    """An agent that reaches the server through the proxy, and tasks of it whose output is looked at."""

    def __init__(self, server: ServerProcess, url: str, place: Path) -> None:
        self._server = server
        self._queue = place.name
        server.new_queue(self._queue)
        self._checker = Checker(server=server, states=[place / "state"], ledger=place / "none")
        self.agent = AgentProcess(server, place / "state", self._queue, worker_id=f"h:{self._queue}", url=url)

    def begin(self, source: str) -> str:
        return create_script(self._server, source, queue=self._queue)

    def end(self, task: str, status: str = "completed", *, seconds: float = 100.0) -> list[str]:
        """What has arrived of a task's output once it has this status, and everything else about it is right."""
        wait_for_status(self._server, task, status, seconds=seconds)
        self._checker.settle([task], excused=frozenset({"console", "ledger"}))
        return console_of(self._server, task, level="DEBUG")


@pytest.fixture
def talkers(server: ServerProcess, proxy: FaultProxy, tmp_path: Path) -> Iterator[Talkers]:
    running = Talkers(server, proxy.url, tmp_path)
    yield running
    running.agent.process.terminate()
    running.agent.process.wait(30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mebibytes", [20, pytest.param(300, marks=pytest.mark.thorough)])
def test_a_flood_of_lines_arrives_whole_while_calls_fail(
    server: ServerProcess, proxy: FaultProxy, talkers: Talkers, mebibytes: int
) -> None:
    lines = mebibytes * 1000
    task = talkers.begin(FLOOD.format(lines=lines))
    wait_for_status(server, task, "in_progress")
    for fault in (Fault.DROP_AFTER, Fault.GATEWAY_AFTER, Fault.ERROR_BEFORE, Fault.REFUSED):
        proxy.plan("events.add_batch", Fault.PASS, Fault.PASS, fault)
    arrived = talkers.end(task, seconds=280)
    assert len(arrived) == lines + 1
    assert arrived[-1].startswith("MB a second")
    print(arrived[-1])
    assert _digest(arrived[:-1]) == _digest(f"{number:09d} " + "x" * 989 for number in range(lines))


def _digest(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode())
    return found.hexdigest()


def test_bytes_that_are_no_text_arrive_as_replacement_characters(talkers: Talkers) -> None:
    arrived = talkers.end(talkers.begin(GARBAGE))
    assert arrived[-1] == "the end"
    assert arrived.count("naïve ☃ 😀") == 50
    assert "\x00\x1b[31mred\x1b[0m" in arrived
    assert "\ufffd" in "".join(arrived)


@pytest.mark.parametrize("mebibytes", [4, pytest.param(64, marks=pytest.mark.thorough)])
def test_output_without_a_line_end_arrives_whole(talkers: Talkers, mebibytes: int) -> None:
    arrived = talkers.end(talkers.begin(ENDLESS_LINE.format(mebibytes=mebibytes)))
    assert sum(map(len, arrived)) == mebibytes * MIB
    assert set("".join(arrived)) == {"x"}


def test_a_task_that_ends_amid_a_line_loses_no_letter(talkers: Talkers) -> None:
    task = talkers.begin("import os\nos.write(1, b'half a line')\nos.kill(os.getpid(), 9)\n")
    assert talkers.end(task, "failed") == ["half a line"]


def test_lines_arrive_while_the_task_goes_on(server: ServerProcess, talkers: Talkers) -> None:
    task = talkers.begin("import time\nfor n in range(20): print(n, flush=True); time.sleep(0.1)\n")
    wait_for(lambda: console_of(server, task, level="DEBUG")[:1] == ["0"], what="the first line")
    assert len(console_of(server, task, level="DEBUG")) < 20
    assert talkers.end(task) == [str(n) for n in range(20)]
