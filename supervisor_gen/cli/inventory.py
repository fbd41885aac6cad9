"""`supervisor-gen inventory`: the GPUs of this host."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import click

from agent.errors import GpusUnknown
from agent.gpu.model import Gpu, Gpus, LostGpu, NoGpus, Unknown
from agent.gpu.wire import Described, host_to_json
from agent.table import table
from supervisor_gen.cli.options import waiting_option
from supervisor_gen.cli.sources import one_host

HEADS = ("GPU", "UUID", "MODEL", "MEMORY", "BUS", "NODE", "NUMA", "CPUS", "PEERS")


@click.command("inventory", short_help="Show the GPUs of this host.")
@click.option("--json", "as_json", is_flag=True, help="Print what --inventory of the other commands reads.")
@click.option("--inventory", metavar="FILE", help="Show a saved inventory, not this host.")
@click.option("--host", metavar="NAME", help="Put this host name into the JSON.")
@waiting_option
def command(*, as_json: bool, inventory: str | None, host: str | None, wait_for_gpus: int) -> int:
    """Show the GPUs of this host as NVML describes them.

    Exit code 9 means that nobody can tell (no driver, an NVML error), which is not the same as no GPUs.
    """
    described = one_host(inventory, host, wait_for_gpus)
    if as_json:
        click.echo(json.dumps(host_to_json(described), indent=2))
    if isinstance(described.inventory, Unknown):
        raise GpusUnknown(described.inventory.reason)
    if not as_json:
        click.echo(_shown(described))
    return 0


def _shown(described: Described) -> str:
    if isinstance(described.inventory, NoGpus):
        return f"{described.host} has no NVIDIA GPU"
    found = described.inventory if isinstance(described.inventory, Gpus) else Gpus(gpus=())
    return table(HEADS, [row for gpu in found.gpus for row in _rows(gpu)] + [_lost(lost) for lost in found.lost])


def _rows(gpu: Gpu) -> Iterator[tuple[str, ...]]:
    """A line for a GPU, and one for each of its MIG instances."""
    links = Counter(link.value for link in gpu.peers.values())
    yield (
        str(gpu.index),
        gpu.uuid,
        gpu.name,
        f"{gpu.memory_total_mib} MiB",
        gpu.bus_id,
        gpu.node,
        "" if gpu.numa is None else str(gpu.numa),
        gpu.cpus,
        " ".join(f"{number} {link}" for link, number in links.items()),
    )
    for part in gpu.mig:
        label = f"{gpu.index}:{part.index}"
        yield (
            label,
            part.uuid,
            f"MIG {part.profile}",
            f"{part.memory_total_mib} MiB",
            "",
            " ".join(part.nodes),
            "",
            "",
            "",
        )


def _lost(lost: LostGpu) -> tuple[str, ...]:
    return str(lost.index), "", f"does not answer: {lost.reason}", "", "", "", "", "", ""
