"""Whose account the role `agent` gives to agents: the given one, or that of the host of the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.ansible import Ansible

PLAY = """
- hosts: gpu1
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: gpufleet.clearml.agent
        tasks_from: account_at_server
    - ansible.builtin.copy:
        dest: "{{ out }}"
        content: "{{ agent_at_server | to_json }}"
        mode: "0600"
"""
CONF = """\
api {
  api_server: "http://127.0.0.1:8008"
  credentials { access_key: "MADE", secret_key: "hunter2" }
}
"""
GIVEN = {"agent_api_server": "https://api.example", "agent_access_key": "GIVEN", "agent_secret_key": "hunter3"}


def account(folder: Path, variables: dict[str, Any], *, groups: dict[str, Any]) -> dict[str, str]:
    """What the role knows afterwards, and that it told nobody else."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    inventory = {"all": {"vars": here | variables, "hosts": {"gpu1": {}}, "children": groups}}
    (folder / "inventory.json").write_text(json.dumps(inventory))
    (folder / "play.yml").write_text(PLAY)
    out = folder / "out.json"
    done = Ansible(folder).run("ansible-playbook", "-vv", "-i", "inventory.json", "-e", f"out={out}", "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hunter" not in done.stdout + done.stderr
    found: dict[str, str] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("groups", [{}, {"clearml_server": {}}], ids=["no group", "an empty group"])
def test_a_given_account_needs_no_host_of_a_server(tmp_path: Path, groups: dict[str, Any]) -> None:
    assert account(tmp_path, GIVEN, groups=groups) == {
        "api_server": "https://api.example",
        "access_key": "GIVEN",
        "secret_key": "hunter3",
    }


def test_without_one_it_is_what_the_server_has_made_for_its_clients(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text(CONF)
    server = {"clearml": {"ansible_host": "192.0.2.1", "apiserver_data_dir": str(tmp_path)}}
    assert account(tmp_path, {}, groups={"clearml_server": {"hosts": server}}) == {
        "api_server": "http://192.0.2.1:8008",
        "access_key": "MADE",
        "secret_key": "hunter2",
    }
