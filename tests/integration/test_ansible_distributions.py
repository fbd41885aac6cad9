"""What the role `agent` makes of a host's distribution, from facts as those distributions give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.ansible import Ansible

VARS = Path(__file__).parents[2] / "ansible/roles/agent/vars/main.yml"
#: distribution, version, family; then the Python to use, what is installed, and whether the host is supported.
HOSTS: dict[str, tuple[str, str, str, str, list[str], bool]] = {
    "debian12": ("Debian", "12.8", "Debian", "python3", ["python3", "python3-venv", "git"], True),
    "debian13": ("Debian", "13.1", "Debian", "python3", ["python3", "python3-venv", "git"], True),
    "debian11": ("Debian", "11.9", "Debian", "python3", ["python3", "python3-venv", "git"], False),
    "jammy": ("Ubuntu", "22.04", "Debian", "python3.11", ["python3.11", "python3.11-venv", "git"], True),
    "noble": ("Ubuntu", "24.04", "Debian", "python3", ["python3", "python3-venv", "git"], True),
    "focal": ("Ubuntu", "20.04", "Debian", "python3", ["python3", "python3-venv", "git"], False),
    "rhel9": ("RedHat", "9.4", "RedHat", "python3.11", ["python3.11", "git-core"], True),
    "rocky9": ("Rocky", "9.3", "RedHat", "python3.11", ["python3.11", "git-core"], True),
    "rocky8": ("Rocky", "8.9", "RedHat", "python3.11", ["python3.11", "git-core"], False),
    "suse": ("SLES", "15.5", "Suse", "python3", [], False),
}
#: A module in place of `setup`, which would tell of this machine.
FACTS = """
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={{"host": {{"type": "str", "required": True}}}})
module.exit_json(ansible_facts={facts}[module.params["host"]])
"""
PLAY = f"""
- hosts: all
  gather_facts: false
  connection: local
  vars_files: {VARS}
  vars:
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
    agent_python: ""
    agent_wheelhouse: ""
  tasks:
    - facts_of: {{host: "{{{{ inventory_hostname }}}}"}}
    - ansible.builtin.copy:
        dest: "{{{{ out }}}}/{{{{ inventory_hostname }}}}"
        content: "{{{{ [agent_python_name, agent_distribution.packages | default([]), is_supported] | to_json }}}}"
        mode: "0600"
      vars:
        is_supported: >-
          {{{{ agent_distribution | length > 0
               and ansible_facts.distribution_version is version(agent_distribution.oldest, '>=') }}}}
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("facts")
    out, library = folder / "out", folder / "library"
    for made in (out, library):
        made.mkdir()
    keys = ("distribution", "distribution_version", "os_family")
    facts = {host: dict(zip(keys, told, strict=False)) for host, told in HOSTS.items()}
    (library / "facts_of.py").write_text(FACTS.format(facts=facts))
    ansible = Ansible(folder)
    (folder / "play.yml").write_text(PLAY)
    done = ansible.run("ansible-playbook", "-i", ",".join(HOSTS) + ",", "-e", f"out={out}", "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: json.loads((out / host).read_text()) for host in HOSTS}


@pytest.mark.parametrize("host", HOSTS)
def test_python_and_packages_are_those_of_the_distribution(seen: dict[str, Any], host: str) -> None:
    *_, python, packages, is_supported = HOSTS[host]
    assert seen[host] == [python, packages, is_supported]


def test_the_oldest_and_the_packages_are_what_the_role_checks() -> None:
    """The condition above is the role's own."""
    text = (VARS.parents[1] / "tasks/look.yml").read_text()
    assert "agent_distribution | length > 0" in text
    assert "ansible_facts.distribution_version is version(agent_distribution.oldest, '>=')" in text
