#!/usr/bin/python
# Copyright: (c) 2026, gpufleet developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clearml_queue
short_description: Queues of a ClearML server
version_added: 0.1.0
author: gpufleet developers (@gpufleet)
description:
  - Makes a queue, tags it, opens and closes it for its workers, or deletes it.
extends_documentation_fragment:
  - gpufleet.clearml.clearml_server
attributes:
  check_mode:
    description: Can run in check mode and tell what would change without changing it.
    support: full
  diff_mode:
    description: Tells what has changed in diff mode.
    support: full
options:
  name:
    description:
      - Name of the queue, with at least three characters. A queue whose name differs only in the case of its letters
        is the same one, as it is to the agents.
    type: str
    required: true
  state:
    description:
      - V(absent) deletes the queue. That is refused while tasks wait in it or workers listen to it, see
        O(force_delete).
    type: str
    choices: [present, absent]
    default: present
  tags:
    description: Tags of the queue, see O(tags_state). Without them, tags stay as they are.
    type: list
    elements: str
  tags_state:
    description:
      - V(present) means that the queue has these tags, perhaps besides others; V(absent) that it has none of them;
        V(exact) that it has these and no others.
    type: str
    choices: [present, absent, exact]
    default: present
  force_workers:
    description:
      - Whether workers take tasks from this queue whatever their working hours and their property C(force) say
        (V(on)), take none from it (V(off)), or decide by themselves (V(none)).
      - It is the tag C(force_workers:on) or C(force_workers:off) of the queue. Other tags are not touched by it, and
        it is applied after O(tags). Without it, that tag stays as O(tags) leaves it.
      - C(on) and C(off) without quotes are booleans to YAML. They are understood, too.
    type: str
    choices: ["on", "off", "none"]
  force_delete:
    description:
      - With O(state=absent), delete the queue though tasks wait in it or workers listen to it. Tasks that wait become
        drafts.
    type: bool
    default: false
seealso:
  - module: gpufleet.clearml.clearml_worker
  - module: gpufleet.clearml.clearml_worker_info
"""

EXAMPLES = r"""
- name: A queue for training
  gpufleet.clearml.clearml_queue:
    api_server: http://clearml:8008
    access_key: "{{ clearml_access_key }}"
    secret_key: "{{ clearml_secret_key }}"
    name: training
    tags: [gpu]

# The other examples find the server by CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY.

- name: No worker takes tasks from it during maintenance
  gpufleet.clearml.clearml_queue:
    name: training
    force_workers: "off"

- name: Workers decide by themselves again
  gpufleet.clearml.clearml_queue:
    name: training
    force_workers: none

- name: Exactly these tags
  gpufleet.clearml.clearml_queue:
    name: training
    tags: [gpu, team-a]
    tags_state: exact

- name: Delete it, if nothing waits in it and nobody listens to it
  gpufleet.clearml.clearml_queue:
    name: training
    state: absent
"""

RETURN = r"""
queue:
  description: The queue as it is now, or as it would be in check mode; null when there is none.
  returned: success
  type: dict
  contains:
    id:
      description: Its id; null for one that check mode has not made.
      type: str
    name:
      description: Its name.
      type: str
    tags:
      description: Its tags, sorted.
      type: list
      elements: str
    waiting:
      description: How many tasks wait in it.
      type: int
  sample:
    id: 2f4a5d9f1c0e4b7f8a37d2b0f2f5c1aa
    name: training
    tags: ["force_workers:off", "gpu"]
    waiting: 3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import (
    CallRefused,
    ClearmlError,
    all_queues,
    connection_spec,
    queue_named,
    run,
    waiting_in,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_workers import (
    all_workers,
)

QUEUE_NOT_EMPTY = 702
FORCE_TAG = "force_workers:"


def main():
    spec = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "tags": {"type": "list", "elements": "str"},
        "tags_state": {"type": "str", "choices": ["present", "absent", "exact"], "default": "present"},
        "force_workers": {"type": "str", "choices": ["on", "off", "none"]},
        "force_delete": {"type": "bool", "default": False},
    }
    module = AnsibleModule(argument_spec=dict(connection_spec(), **spec), supports_check_mode=True)
    run(module, ensure)


def ensure(module, server):
    """Bring the queue to the state that is wanted."""
    options = module.params
    queue = queue_named(all_queues(server), options["name"])
    if options["state"] == "absent":
        return ensure_absent(module, server, queue)
    if queue is None:
        return create(module, server)
    return ensure_tags(module, server, queue)


def ensure_absent(module, server, queue):
    if queue is None:
        return outcome(None, None)
    shown = dict(queue, waiting=waiting_in(server, queue["id"]))
    if not module.params["force_delete"]:
        refuse_if_used(server, shown)
    if not module.check_mode:
        delete(server, queue, force=module.params["force_delete"])
    return outcome(shown, None)


def refuse_if_used(server, queue):
    """Raise ClearmlError where tasks wait or workers listen: a server may let the queue go, to their surprise."""
    reasons = []
    if queue["waiting"]:
        reasons.append(f"{queue['waiting']} {'task waits' if queue['waiting'] == 1 else 'tasks wait'} in it")
    listeners = [worker["id"] for worker in all_workers(server) if queue["name"] in worker["queues"]]
    if listeners:
        reasons.append(f"{', '.join(listeners)} {'listens' if len(listeners) == 1 else 'listen'} to it")
    if reasons:
        raise ClearmlError(
            f"queue {queue['name']} is not deleted: {' and '.join(reasons)}",
            "force_delete: true deletes it all the same; tasks that wait become drafts",
        )


def delete(server, queue, *, force):
    try:
        server.call("queues.delete", queue=queue["id"], force=force)
    except CallRefused as error:
        if error.subcode != QUEUE_NOT_EMPTY:
            raise
        raise ClearmlError(
            f"queue {queue['name']} is not deleted: it came to be used just now ({error})",
            "force_delete: true deletes it all the same; tasks that wait become drafts",
        ) from error


def create(module, server):
    queue = {"id": None, "name": module.params["name"].strip(), "tags": wanted_tags([], module.params), "waiting": 0}
    if not module.check_mode:
        queue["id"] = server.call("queues.create", name=queue["name"], tags=queue["tags"])["id"]
    return outcome(None, queue)


def ensure_tags(module, server, queue):
    tags = wanted_tags(queue["tags"], module.params)
    if tags != queue["tags"] and not module.check_mode:
        server.call("queues.update", queue=queue["id"], tags=tags)
    waiting = waiting_in(server, queue["id"])
    return outcome(dict(queue, waiting=waiting), dict(queue, tags=tags, waiting=waiting))


def wanted_tags(present, options):
    """The tags that the queue is to have, sorted."""
    named = set(options["tags"] or ())
    tags = set(present)
    if options["tags"] is not None:
        tags = {"present": tags | named, "absent": tags - named, "exact": named}[options["tags_state"]]
    word = options["force_workers"]
    if word:
        tags = {tag for tag in tags if not tag.startswith(FORCE_TAG)}
        tags |= {FORCE_TAG + word} if word != "none" else set()
    return sorted(tags)


def outcome(before, after):
    """What the module returns of a queue that was `before` and is `after` (None: it is not there)."""
    return {"changed": before != after, "queue": after, "diff": {"before": before or {}, "after": after or {}}}


if __name__ == "__main__":
    main()
