"""Ansible as processes that find the collection of this checkout, with a home and an environment of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.cli import Result, environment

ROOT = Path(__file__).parent.parent.parent
COLLECTION = "gpufleet.clearml"
RUN_SECONDS = 100.0
#: What a task of a playbook may have besides its module.
KEYWORDS = ("check_mode", "environment")


def linked_collection(collections: Path) -> Path:
    """Make the collection of this checkout one of those in a folder; the folder."""
    namespace, name = COLLECTION.split(".")
    link = collections / "ansible_collections" / namespace / name
    if not link.exists():
        link.parent.mkdir(parents=True)
        link.symlink_to(ROOT / "ansible", target_is_directory=True)
    return collections


def plain(told: Any) -> Any:
    """What `ansible-inventory` prints, without its marks on texts that are no templates."""
    if isinstance(told, list):
        return [plain(value) for value in told]
    if isinstance(told, dict):
        if told.keys() == {"__ansible_unsafe"}:
            return told["__ansible_unsafe"]
        return {key: plain(value) for key, value in told.items()}
    return told


class Ansible:
    """Runs Ansible in `folder`, which holds everything that it writes. `variables` are its environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self._variables = variables
        collections = linked_collection(folder / "collections")
        self._settings = {
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),  # there is none
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true",
            "LANG": "C.UTF-8",
        }

    def run(self, program: str, *arguments: str) -> Result:
        """Run one of Ansible's programs to its end."""
        return subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            cwd=self.folder,
            env=environment(self.folder, **self._settings, **self._variables),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def results(self, tasks: Mapping[str, Mapping[str, Any]], *options: str) -> dict[str, Any]:
        """Run tasks one after the other, on this host, and give what each of them returned, under its name.

        A task is `{"clearml_queue": {"name": ...}}`, perhaps with some KEYWORDS. One that fails ends nothing.
        """
        self.play(tasks, *options)
        results: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return results

    def play(self, tasks: Mapping[str, Mapping[str, Any]], *options: str) -> Result:
        """As `results`; what the program printed."""
        written = [_task(name, task) for name, task in tasks.items()]
        told = "{{ {" + ", ".join(f"'{name}': {name}" for name in tasks) + "} | to_json }}"
        keep = {"ansible.builtin.copy": {"content": told, "dest": str(self.folder / "results.json"), "mode": "0600"}}
        variables = {"ansible_python_interpreter": sys.executable}
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables}
        playbook = self.folder / "playbook.yml"
        playbook.write_text(json.dumps([{**play, "tasks": [*written, {**keep, "diff": False, "check_mode": False}]}]))
        result = self.run("ansible-playbook", "-i", "localhost,", "--diff", *options, str(playbook))
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    def inventory(self, text: str, *options: str, name: str = "clearml_workers.yml") -> Result:
        """What `ansible-inventory --list` prints of an inventory file."""
        path = self.folder / name
        path.write_text(text)
        return self.run("ansible-inventory", "--list", "-i", str(path), *options)


def _task(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {key: value for key, value in task.items() if key in KEYWORDS}
    modules = {f"{COLLECTION}.{key}": value for key, value in task.items() if key not in KEYWORDS}
    return {"name": name, **modules, **keywords, "register": name, "ignore_errors": True}
