"""`supervisor-gen emit`: the files of a plan, to a folder or to standard output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from supervisor_gen.cli.options import Emission, Planning, emitting_options, planned, planning_options, tell_warnings
from supervisor_gen.emitters.systemd import ENABLED, ENVIRONMENTS, GENERATED_ENVIRONMENTS, UNITS
from supervisor_gen.model import Files
from supervisor_gen.state import inventory_file
from supervisor_gen.writer import write_files


@click.command("emit", short_help="Write the files of a plan to a folder or to standard output.")
@planning_options
@emitting_options
@click.option("--output", default="-", metavar="DIR", help="Folder to write to; - (without it) is standard output.")
@click.option("--boot", metavar="DIR", help="For the boot-time shim: units of the saved inventory to this folder.")
def command(*, planning: Planning, emission: Emission, output: str, boot: str | None) -> int:
    """Write every file that `apply` would, and tell nobody about it. Same inputs, same bytes."""
    if boot:
        planning = replace(planning, inventory=str(inventory_file(planning.root)))
    plan = planned(planning).plan
    tell_warnings(plan)
    files = emission.emitter.files_for(plan, emission.site)
    if boot:
        write_for_boot(Path(boot), files)
    elif output == "-":
        click.echo(_stream(files), nl=False)
    else:
        write_files(Path(output), files)
        click.echo(f"{len(files)} files below {output}", err=True)
    return 0


def write_for_boot(units: Path, files: Files) -> None:
    """Units and environment files to the folder that systemd gave the shim, and what `systemctl enable` does."""
    below_units = {path.removeprefix(f"{UNITS}/"): file for path, file in files.items() if path.startswith(UNITS)}
    environments = {
        path.replace(ENVIRONMENTS, GENERATED_ENVIRONMENTS): file
        for path, file in files.items()
        if path.startswith(ENVIRONMENTS)
    }
    write_files(units, {**below_units, **environments})
    for unit, wanted_by in ENABLED.items():
        folder = units / f"{wanted_by}.wants"
        folder.mkdir(exist_ok=True)
        (folder / unit).unlink(missing_ok=True)
        (folder / unit).symlink_to(f"../{unit}")


def _stream(files: Files) -> str:
    """All files behind each other, each under a line with its path, as `systemctl cat` shows them."""
    return "\n".join(f"# /{path}\n{files[path].text}" for path in sorted(files))
