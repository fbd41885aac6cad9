"""A fleet review: 1,000 saved inventories of eight GPUs planned by one call of `supervisor-gen plan --fleet`."""

from __future__ import annotations

import json
import os

from benchmarks.contestants import ours
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import wall_and_peak
from demo.server import program

HOSTS = 1000
GPUS = 8
TOPOLOGY = """\
groups { quads: ["host0*"] }
agents: [
  { name: quad, hosts: ["@quads"], gpu { model: H100 }, gpus: 4, queues: [quad, train] }
  { rest: true, gpu { model: H100 }, queues: [train, low], order_fairness: true }
  { name: services, gpus: 0, count: 2, queues: [services], services_mode: true }
]
"""


def measure(bench: Bench) -> list[Row]:
    seconds = Row(title=f"plan of {HOSTS:,} hosts of {GPUS} GPUs, wall", unit="s", limit=5.0)
    memory = Row(title=f"plan of {HOSTS:,} hosts of {GPUS} GPUs, peak memory", unit="MB", limit=150.0)
    home = bench.bed.home(ours())
    (home / "topology.conf").write_text(TOPOLOGY)
    inventories = home / "inventories"
    inventories.mkdir()
    for number in range(HOSTS):
        (inventories / f"host{number:04}.json").write_text(json.dumps(_host(number)))
    command = [str(program("supervisor-gen")), "plan", "--fleet", "--topology", str(home / "topology.conf")]
    for _ in range(bench.runs):
        wall, peak = wall_and_peak([*command, "--inventory", str(inventories)], os.environ)
        seconds.add(ours(), wall)
        memory.add(ours(), peak)
    return [seconds, memory]


def _host(number: int) -> dict[str, object]:
    """An inventory as `supervisor-gen inventory --json` prints it, every GPU on NVLink with every other."""
    uuids = [f"GPU-{number:08x}-0000-4000-8000-{index:012x}" for index in range(GPUS)]
    gpus = [
        {
            "index": index,
            "uuid": uuid,
            "numa": index // 4,
            "cpus": "0-55,112-167" if index < GPUS // 2 else "56-111,168-223",
            "peers": {other: "nvlink" for other in uuids if other != uuid},
        }
        for index, uuid in enumerate(uuids)
    ]
    return {"version": 1, "host": f"host{number:04}", "gpus": gpus}
