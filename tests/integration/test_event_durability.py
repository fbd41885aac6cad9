"""Reporters that repeat what was not acknowledged, a server that is killed again and again: every line once."""

import json
import random
import threading

import requests
from support.apiserver import ServerProcess

REPORTERS = 3
BATCHES = 60
LINES_PER_BATCH = 7
KILLS = 4


class Reporter(threading.Thread):
    """Sends batches of numbered lines; one whose fate is unknown is sent again."""

    def __init__(self, server, task):
        super().__init__(daemon=True)
        self._server = server
        self.task = task
        self.acknowledged = 0

    def run(self):
        with requests.Session() as session:
            session.trust_env = False
            session.auth = (self._server.access_key, self._server.secret_key)
            session.headers["Content-Type"] = "application/json-lines"
            for batch in range(BATCHES):
                while not self._sent(session, batch):
                    self._pause.wait(0.05)
                self.acknowledged += LINES_PER_BATCH

    _pause = threading.Event()  # never set: between two attempts

    def _sent(self, session, batch):
        try:
            reply = session.post(f"{self._server.api}/events.add_batch", data=self._body(batch), timeout=5)
        except requests.RequestException:
            return False
        return reply.status_code == 200 and reply.json()["data"]["added"] == LINES_PER_BATCH + 1

    def _body(self, batch):
        numbers = range(batch * LINES_PER_BATCH, (batch + 1) * LINES_PER_BATCH)
        common = {"task": self.task}
        lines = [
            {"type": "log", "timestamp": number, "msg": str(number), "event_id": str(number), **common}
            for number in numbers
        ]
        point = {
            "type": "training_stats_scalar",
            "metric": "m",
            "variant": "v",
            "iter": batch,
            "value": batch,
            **common,
        }
        return "\n".join(map(json.dumps, [*lines, point]))


def test_every_acknowledged_line_is_there_once_after_kills_of_the_server():
    with ServerProcess() as server:
        reporters = [Reporter(server, server.new_task(f"task {number}")) for number in range(REPORTERS)]
        for reporter in reporters:
            reporter.start()
        for kill in range(KILLS):
            goal = (kill + 1) * BATCHES * LINES_PER_BATCH // (KILLS + 2) + random.randrange(20)
            server.wait_until(lambda goal=goal: reporters[0].acknowledged >= goal, seconds=30)
            server.kill()
            server.restart()
        for reporter in reporters:
            reporter.join(60)
            assert not reporter.is_alive()
        for reporter in reporters:
            check(server, reporter.task)


def check(server, task):
    reply = server.call("events.get_task_log", task=task, batch_size=10_000, navigate_earlier=False)
    assert [event["msg"] for event in reply["events"]] == [str(number) for number in range(BATCHES * LINES_PER_BATCH)]
    curve = server.call("events.scalar_metrics_iter_histogram", task=task)["m"]["v"]
    assert curve["x"] == list(range(BATCHES))
