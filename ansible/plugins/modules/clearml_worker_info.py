#!/usr/bin/python
# Copyright: (c) 2026, gpufleet developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clearml_worker_info
short_description: Workers and queues of a ClearML server
version_added: 0.1.0
author: gpufleet developers (@gpufleet)
description:
  - Tells which workers a server knows, what they run and how they stand, and which queues it has.
extends_documentation_fragment:
  - gpufleet.clearml.clearml_server
attributes:
  check_mode:
    description: Can run in check mode and tell what would change without changing it.
    support: full
  diff_mode:
    description: Tells what has changed in diff mode.
    support: none
    details: It changes nothing.
options:
  patterns:
    description: Shell patterns; a worker is told of when its id matches one of them. Queues are always told of, all
      of them.
    type: list
    elements: str
    default: ["*"]
  with_force:
    description: Whether to ask for the property C(force) of each worker, which is one more request for each of them.
    type: bool
    default: false
seealso:
  - module: gpufleet.clearml.clearml_worker
  - plugin: gpufleet.clearml.clearml_workers
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: The workers of two hosts
  gpufleet.clearml.clearml_worker_info:
    api_server: http://clearml:8008
    access_key: "{{ clearml_access_key }}"
    secret_key: "{{ clearml_secret_key }}"
    patterns: ["node1:*", "node2:*"]
  register: fleet

- name: Who is busy
  ansible.builtin.debug:
    msg: "{{ fleet.workers | selectattr('runs') | map(attribute='id') }}"

- name: No queue in which tasks wait may be without a worker
  ansible.builtin.assert:
    that: item.waiting == 0 or item.name in (fleet.workers | map(attribute='queues') | flatten)
  loop: "{{ fleet.queues }}"
"""

RETURN = r"""
workers:
  description: The workers that match, by id; C(gpu2) comes before C(gpu10).
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Id of the worker.
      type: str
    host:
      description: What the id says before its first colon, by default the name of the host.
      type: str
    parent:
      description: The agent whose sub-worker it is, or null.
      type: str
    ip:
      description: Where it reports from.
      type: str
    state:
      description: C(idle), C(running), or how it stands (C(closed), C(running, draining)).
      type: str
    standing:
      description: How it stands, one of C(open), C(forced on), C(closed), C(forced off), C(waiting), C(paused),
        C(cordoned), C(draining).
      type: str
    until:
      description: When that ends (ISO 8601), or null.
      type: str
    why:
      description: The reason of C(waiting), C(paused) and C(cordoned), or null.
      type: str
    runs:
      description: Whether it or a sub-worker of it has a task.
      type: bool
    task:
      description: Its own task (C(id), C(name), and C(seconds) for which it has been running), or null.
      type: dict
    queues:
      description: Names of the queues it listens to, the preferred ones first.
      type: list
      elements: str
    tags:
      description: Its tags.
      type: list
      elements: str
    system_tags:
      description: Its system tags.
      type: list
      elements: str
    is_duplicate:
      description: Whether two agents report under this id.
      type: bool
    version:
      description: Version of a gpufleet agent, or null.
      type: str
    gpus:
      description:
        - Null, or C(names) (as in the id), C(count), C(usage_percent) (mean), C(memory_used_mib) and
          C(memory_total_mib) (sums).
        - Readings are null where the server does not tell them; only gpufleet's own does.
      type: dict
    registered:
      description: When it registered (ISO 8601).
      type: str
    reported:
      description: When it last reported (ISO 8601).
      type: str
    force:
      description:
        - The property C(force); C(value) is C(on), C(off) or C(none), C(seconds_left) is null where it holds until it
          is changed.
        - Null without O(with_force), and where the server has no such properties.
      type: dict
queues:
  description: All queues, by name.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its id.
      type: str
    name:
      description: Its name.
      type: str
    tags:
      description: Its tags.
      type: list
      elements: str
    waiting:
      description: How many tasks wait in it.
      type: int
"""

import fnmatch

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import (
    CallRefused,
    all_queues,
    connection_spec,
    run,
    waiting_in,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_force import (
    NoProperties,
    force_of,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_workers import (
    all_workers,
)

INVALID_QUEUE = 701


def main():
    spec = {
        "patterns": {"type": "list", "elements": "str", "default": ["*"]},
        "with_force": {"type": "bool", "default": False},
    }
    module = AnsibleModule(argument_spec=dict(connection_spec(), **spec), supports_check_mode=True)
    run(module, tell)


def tell(module, server):
    """What the server knows."""
    workers = [worker for worker in all_workers(server) if matches(worker["id"], module.params["patterns"])]
    asks = module.params["with_force"]
    forces = forces_of(server, [worker["id"] for worker in workers]) if asks else {}
    queues = [told for told in (counted(server, queue) for queue in all_queues(server)) if told]
    told_workers = [dict(worker, force=forces.get(worker["id"])) for worker in workers]
    return {"changed": False, "workers": told_workers, "queues": queues}


def matches(worker_id, patterns):
    return any(fnmatch.fnmatchcase(worker_id, pattern) for pattern in patterns)


def forces_of(server, ids):
    """The property `force` of each worker; nothing where the server has none."""
    try:
        return {worker_id: force_of(server, worker_id) for worker_id in ids}
    except NoProperties:
        return {}


def counted(server, queue):
    """The queue with how many tasks wait; None if it has just been deleted."""
    try:
        return dict(queue, waiting=waiting_in(server, queue["id"]))
    except CallRefused as error:
        if error.subcode != INVALID_QUEUE:
            raise
        return None


if __name__ == "__main__":
    main()
