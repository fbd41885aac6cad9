"""The commands, in the order in which a person meets them."""

from __future__ import annotations

import click

from supervisor_gen.cli import apply, diff, drain, emit, inventory, plan, resume, status

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=HELP, no_args_is_help=True)
@click.version_option(package_name="gpufleet", prog_name="supervisor-gen")
def group() -> None:
    """Give every GPU of this host its own supervised agent.

    Reads the host's GPUs (NVML) and a topology that says which queues they serve, and makes one fenced agent per GPU,
    group of GPUs, MIG instance or CPU slot, for systemd or supervisord.
    """


for module in (inventory, plan, emit, diff, apply, status, drain, resume):
    group.add_command(module.command)
