#!/usr/bin/python
# Copyright: (c) 2026, gpufleet developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clearml_worker
short_description: Open or close a worker of a ClearML server, or wait for it
version_added: 0.1.0
author: gpufleet developers (@gpufleet)
description:
  - Opens or closes a worker whatever its working hours say, for some time or until it is changed.
  - Waits until a worker is idle, closed, gone, or there in a certain version.
  - With both, first the one, then the other.
extends_documentation_fragment:
  - gpufleet.clearml.clearml_server
attributes:
  check_mode:
    description: Can run in check mode and tell what would change without changing it.
    support: full
    details: It does not wait in check mode.
  diff_mode:
    description: Tells what has changed in diff mode.
    support: full
options:
  worker:
    description: Id of the worker, such as V(node1:gpu0).
    type: str
    required: true
  force:
    description:
      - The runtime property C(force) of the worker. V(on) lets it take tasks outside of its working hours, V(off)
        keeps it from taking any, V(none) leaves it to its hours again. Tags C(force_workers) of a queue are stronger.
      - A task that runs goes on.
      - It can be set before the worker is there, and outlives its restart.
      - ClearML's open-source server has no runtime properties. V(on) and V(off) fail there.
      - C(on) and C(off) without quotes are booleans to YAML. They are understood, too.
    type: str
    choices: ["on", "off", "none"]
  expires_in:
    description:
      - For how long O(force) holds. Seconds, or such as V(90s), V(15m), V(2h), V(1d), V(1h30m). Without it and
        O(expires_at), until it is changed.
      - Nothing is changed while the present force is the same and ends at most O(expires_tolerance) earlier.
    type: str
  expires_at:
    description:
      - Until when O(force) holds, as ISO 8601 with an offset, such as V(2026-11-23T08:00:00+01:00).
      - Nothing is changed while the present force is the same and ends within O(expires_tolerance) of it.
    type: str
  expires_tolerance:
    description: See O(expires_in) and O(expires_at), in seconds.
    type: float
    default: 60
  wait_for:
    description:
      - V(registered) until it is on the server's list and has reported within the last minute.
      - V(idle) until neither it nor a sub-worker of it (a task of an agent in services mode or with dynamic GPUs) has
        a task. One that is not on the list has none.
      - V(gone) until it is not on the server's list. An agent that ends takes itself off; one that is killed, or
        whose host fails, stays for ten minutes.
      - V(open) until it tells that it takes tasks, be it forced or not.
      - V(closed) until it tells that it takes none. It is out of its hours, forced off, paused, cordoned or
        draining.
    type: str
    choices: [registered, idle, gone, open, closed]
  version:
    description: With O(wait_for=registered), the version of the gpufleet agent that it has to be.
    type: str
  registered_after:
    description:
      - With O(wait_for=registered), the worker must have registered later than this. It is ISO 8601 with an offset,
        or seconds since the epoch, and compared by the clock of the server.
      - C(worker.registered) of an earlier result is a good value. It tells a restarted agent from the one before, and
        takes no clocks to agree.
      - Empty text is the same as leaving it out.
    type: str
  timeout:
    description: How many seconds to wait at most; then the module fails and says what the worker still does.
    type: float
    default: 300
  interval:
    description: How many seconds to wait between two looks.
    type: float
    default: 2
seealso:
  - module: gpufleet.clearml.clearml_worker_info
  - module: gpufleet.clearml.clearml_queue
"""

EXAMPLES = r"""
- name: Take no more tasks for two hours, and wait until the present one has ended
  gpufleet.clearml.clearml_worker:
    api_server: http://clearml:8008
    access_key: "{{ clearml_access_key }}"
    secret_key: "{{ clearml_secret_key }}"
    worker: node1:gpu0
    force: "off"
    expires_in: 2h
    wait_for: idle
    timeout: 3600
  register: before

# The other examples find the server by CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY.

- name: Wait until the agent is there again, and is the new one
  gpufleet.clearml.clearml_worker:
    worker: node1:gpu0
    wait_for: registered
    version: 0.1.0
    registered_after: "{{ before.worker.registered | default('', true) }}"
    timeout: 120

- name: Leave it to its working hours again
  gpufleet.clearml.clearml_worker:
    worker: node1:gpu0
    force: none

- name: Open it until Monday morning
  gpufleet.clearml.clearml_worker:
    worker: node1:gpu0
    force: "on"
    expires_at: "2026-11-23T08:00:00+01:00"
"""

RETURN = r"""
worker:
  description:
    - The worker as it is at the end.
    - With what M(gpufleet.clearml.clearml_worker_info) returns of each worker, such as C(task) and C(version).
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
    present:
      description: Whether it is on the server's list. Without that, only C(id) and C(force) are there.
      type: bool
    force:
      description:
        - The property C(force), or what it would be in check mode; null where the server has no such properties.
        - C(value) is C(on), C(off) or C(none), C(seconds_left) is null where it holds until it is changed.
      type: dict
      sample: {value: "off", seconds_left: 7200}
waited_seconds:
  description: How long the module waited.
  returned: success
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import (
    ClearmlError,
    connection_spec,
    run,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_force import (
    NoProperties,
    duration_seconds,
    force_of,
    iso_text,
    moment_seconds,
    needs_force,
    set_force,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_workers import (
    CLOSED,
    TAKING,
    all_workers,
    crew_of,
)

REPORTS_WITHIN_SECONDS = 60.0


def main():
    spec = {
        "worker": {"type": "str", "required": True},
        "force": {"type": "str", "choices": ["on", "off", "none"]},
        "expires_in": {"type": "str"},
        "expires_at": {"type": "str"},
        "expires_tolerance": {"type": "float", "default": 60.0},
        "wait_for": {"type": "str", "choices": ["registered", "idle", "gone", "open", "closed"]},
        "version": {"type": "str"},
        "registered_after": {"type": "str"},
        "timeout": {"type": "float", "default": 300.0},
        "interval": {"type": "float", "default": 2.0},
    }
    module = AnsibleModule(
        argument_spec=dict(connection_spec(), **spec),
        mutually_exclusive=[["expires_in", "expires_at"]],
        supports_check_mode=True,
    )
    run(module, steer)


def steer(module, server):
    """Force the worker as wanted, then wait for it."""
    options = module.params
    check(options)
    before = force_or_none(server, options)
    after = ensure_force(module, server, before)
    waits = options["wait_for"] and not module.check_mode
    waited = wait(server, options) if waits else 0.0
    return {
        "changed": before != after,
        "diff": {"before": {"force": before}, "after": {"force": after}},
        "worker": dict(described(server, options["worker"]), force=after),
        "waited_seconds": waited,
    }


def check(options):
    """Refuse options that mean nothing together, before anything is done."""
    for name in ("expires_in", "expires_at"):
        if options[name] and options["force"] not in ("on", "off"):
            raise ClearmlError(f"{name} goes with force: on or force: off only")
    for name in ("version", "registered_after"):
        if options[name] and options["wait_for"] != "registered":
            raise ClearmlError(f"{name} goes with wait_for: registered only")
    if options["expires_in"]:
        duration_seconds(options["expires_in"], "expires_in")
    for name in ("expires_at", "registered_after"):
        if options[name]:
            moment_seconds(options[name], name)


# --- force


def force_or_none(server, options):
    """The property `force`; None where the server has none and none is wanted."""
    try:
        return force_of(server, options["worker"])
    except NoProperties:
        if options["force"] in ("on", "off"):
            raise
        return None


def ensure_force(module, server, present):
    """The property `force` after it was set, where that is needed."""
    options = module.params
    word, tolerance = options["force"], options["expires_tolerance"]
    if word is None or present is None:
        return present
    seconds = seconds_wanted(server, options)
    later = tolerance if options["expires_at"] else 0.0
    if not needs_force(present, word, seconds, earlier=tolerance, later=later):
        return present
    if module.check_mode:
        return {"value": word, "seconds_left": seconds}
    set_force(server, options["worker"], word, seconds)
    return force_of(server, options["worker"])


def seconds_wanted(server, options):
    """For how many seconds the force shall hold; None: until it is changed."""
    if options["expires_in"]:
        return max(round(duration_seconds(options["expires_in"])), 1)
    if not options["expires_at"]:
        return None
    seconds = round(moment_seconds(options["expires_at"]) - server.now())
    if seconds <= 0:
        raise ClearmlError(
            f"expires_at is over: it is {iso_text(server.now())} on the server, later than {options['expires_at']}",
            "To end a force, say force: none",
        )
    return seconds


# --- waiting


def wait(server, options):
    """Wait for what `wait_for` names and return for how many seconds that took; ClearmlError after the time-out."""
    started = time.monotonic()
    while True:
        lack = lack_now(server, options)
        waited = time.monotonic() - started
        if not lack:
            return round(waited, 1)
        if waited >= options["timeout"]:
            what = f"worker {options['worker']} is not {options['wait_for']} after {options['timeout']:g} s: {lack}"
            raise ClearmlError(what, HINTS.get(options["wait_for"], ""))
        time.sleep(min(options["interval"], options["timeout"] - waited))


def lack_now(server, options):
    """What it still lacks; the server may be away for a while, as when it is upgraded, too."""
    try:
        workers = all_workers(server, repeat=False)
    except ClearmlError as error:
        if not error.may_pass:
            raise
        return str(error)
    return LACKS[options["wait_for"]](options, workers, server.now())


def lack_of_registered(options, workers, now):
    worker = find(workers, options["worker"])
    if worker is None:
        return NOT_LISTED
    moments = [moment_seconds(moment) for moment in (worker["registered"], worker["reported"]) if moment]
    silent = now - max(moments, default=0.0)
    if silent > REPORTS_WITHIN_SECONDS:
        return f"it has not reported for {silent:.0f} s"
    after = options["registered_after"]
    if after and moment_seconds(worker["registered"] or worker["reported"]) <= moment_seconds(after):
        return f"it registered at {worker['registered'] or worker['reported']}, which is not after {after}"
    if options["version"] and worker["version"] != options["version"]:
        return f"its version is {worker['version'] or 'not told by its tags'}, and {options['version']} is wanted"
    return ""


def lack_of_idle(options, workers, _now):
    return "; ".join(doing(worker) for worker in crew_of(options["worker"], workers) if worker["task"])


def lack_of_gone(options, workers, _now):
    worker = find(workers, options["worker"])
    if worker is None:
        return ""
    return f"it is on the server's list, {state(worker)}, reported at {worker['reported']}" + tail(options, workers)


def lack_of_open(options, workers, _now):
    return lack_of_standing(TAKING, options, workers)


def lack_of_closed(options, workers, _now):
    return lack_of_standing(CLOSED, options, workers)


def lack_of_standing(wanted, options, workers):
    worker = find(workers, options["worker"])
    if worker is None:
        return NOT_LISTED
    return "" if worker["standing"] in wanted else f"it is {state(worker)}" + tail(options, workers)


NOT_LISTED = "it is not on the server's list"
LACKS = {
    "registered": lack_of_registered,
    "idle": lack_of_idle,
    "gone": lack_of_gone,
    "open": lack_of_open,
    "closed": lack_of_closed,
}
HINTS = {
    "registered": "Does the agent run on its host, and what does its log say?",
    "idle": "A task that is not to be waited for can be aborted; force: off keeps further ones away",
    "gone": "An agent that was killed stays on the list for ten minutes after its last report",
    "open": "Its working hours, the property force, and the health of its GPUs decide",
    "closed": "Its agent tells it within seconds of hearing it: does it run?",
}


def find(workers, worker_id):
    return next((worker for worker in workers if worker["id"] == worker_id), None)


def doing(worker):
    task = worker["task"]
    return f"{worker['id']} runs task {task['id']} ({task['name']})"


def tail(options, workers):
    """What it and its sub-workers run, to be put behind something else."""
    running = lack_of_idle(options, workers, None)
    return f"; {running}" if running else ""


def state(worker):
    """The state with until when or why."""
    end = f" until {worker['until']}" if worker["until"] else f": {worker['why']}" if worker["why"] else ""
    return f"{worker['state']}{end}"


def described(server, worker_id):
    """The worker, or just its id and that it is not there."""
    worker = find(all_workers(server), worker_id)
    return dict(worker, present=True) if worker else {"id": worker_id, "present": False}


if __name__ == "__main__":
    main()
