"""The figures by name, in the order of the table."""

from __future__ import annotations

from benchmarks.figures import (
    console,
    dispatch,
    eight,
    fleet,
    idle,
    leak,
    outage,
    packages,
    plan,
    provisioning,
    scheduling,
    services,
    throughput,
)
from benchmarks.figures import help as help_
from benchmarks.figures.base import Figure

FIGURES: dict[str, Figure] = {
    "help": help_.measure,
    "dispatch": dispatch.measure,
    "packages": packages.measure,
    "throughput": throughput.measure,
    "console": console.measure,
    "leak": leak.measure,
    "outage": outage.measure,
    "idle": idle.measure,
    "eight": eight.measure,
    "plan": plan.measure,
    "services": services.measure,
    "scheduling": scheduling.measure,
    "fleet": fleet.measure,
    "provisioning": provisioning.measure,
}
