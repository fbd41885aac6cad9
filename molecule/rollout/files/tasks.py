"""Tasks by the API, from the host of the server: `python3 - COMMAND ...` with this text as standard input.

    start QUEUE...            a task in each queue that counts until /srv/gate is on its host; prints their ids
    await STATUS IDS          until all have this status; prints them
    consoles IDS              the consoles, as {id: text}

IDS is a JSON list. Prints JSON.
"""

import base64
import json
import re
import sys
import time
import urllib.request

CONF = "/var/lib/clearml-apiserver/clearml.conf"
URL = "http://127.0.0.1:8008/"
SECONDS = 90
COUNTS = """
import itertools, os, time
with open("/srv/started", "a") as file:
    file.write(os.environ["CLEARML_TASK_ID"] + "\\n")
for number in itertools.count():
    print("tick", number, flush=True)
    if os.path.exists("/srv/gate"):
        break
    time.sleep(0.1)
print("over at", number, flush=True)
"""


def call(action, authorization, **data):
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    request = urllib.request.Request(URL + action, json.dumps(data).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)["data"]


def log_in():
    with open(CONF) as file:
        text = file.read()
    keys = [re.search(name + r': "([^"]+)"', text).group(1) for name in ("access_key", "secret_key")]
    basic = "Basic " + base64.b64encode(":".join(keys).encode()).decode()
    return "Bearer " + call("auth.login", basic)["token"]


def start(token, *queues):
    return [start_in(token, queue) for queue in queues]


def start_in(token, queue):
    script = {"binary": "python3", "entry_point": "counts.py", "diff": COUNTS, "repository": "", "working_dir": "."}
    task = call("tasks.create", token, name="counts in " + queue, type="training", script=script)["id"]
    call("tasks.enqueue", token, task=task, queue_name=queue)
    return task


def await_(token, status, ids):
    deadline = time.monotonic() + SECONDS
    while True:
        found = {task: call("tasks.get_by_id", token, task=task)["task"]["status"] for task in json.loads(ids)}
        is_over = not set(found.values()) & {"queued", "in_progress"}
        if set(found.values()) == {status} or is_over or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def consoles(token, ids):
    return {task: console(token, task) for task in json.loads(ids)}


def console(token, task):
    """All of it, a page at a time; the next page begins behind the last time of the one before."""
    text, after = "", 0
    while True:
        page = {"task": task, "from_timestamp": after, "navigate_earlier": False, "order": "asc", "batch_size": 1000}
        events = call("events.get_task_log", token, **page)["events"]
        if not events:
            return text
        text += "".join(event["msg"].rstrip("\n") + "\n" for event in events)
        after = events[-1]["timestamp"]


command, *arguments = sys.argv[1:]
print(json.dumps({"start": start, "await": await_, "consoles": consoles}[command](log_in(), *arguments)))
