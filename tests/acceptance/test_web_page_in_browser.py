"""The web page as somebody uses it: a real browser on a real server with a real agent."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from support.agent import agent_on, create_script, status_of, wait_for_status
from support.apiserver import ServerProcess
from support.browser import Browser, chromium

QUEUE = "training runs"
TICKS = """
import time
for number in range(100_000):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""
MARKUP = "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\">"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        server.new_queue(QUEUE)
        yield server


@pytest.fixture(scope="module")
def worker(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent for the queue, by name."""
    with agent_on(server, tmp_path_factory.mktemp("agent"), QUEUE, worker_id="bench:gpu0") as agent:
        yield agent.worker_id


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, server: ServerProcess) -> Iterator[Browser]:
    """Somebody who opens the page for the first time. Whatever a test does, the page asks nobody but its server."""
    browser.forget_everything()
    browser.look_like()
    browser.driver.get(f"{server.api}/ui")
    yield browser
    elsewhere = [url for url in browser.requests() if not url.startswith((f"{server.api}/", "data:"))]
    assert elsewhere == []


@pytest.fixture
def page(visitor: Browser, server: ServerProcess) -> Iterator[Browser]:
    """Somebody who has signed in before, and sees the fleet. No script fails and nothing is refused from here on."""
    visitor.find("input[name=access_key]")
    visitor.complaints()  # the browser notes every 401
    visitor.keep_cookie("clearml_token_basic", server.token(), url=server.api)
    visitor.driver.refresh()
    visitor.find("[data-part=workers]")
    yield visitor
    assert visitor.complaints() == []


def sign_in(page: Browser, access_key: str, secret_key: str) -> None:
    for name, value in (("access_key", access_key), ("secret_key", secret_key)):
        field = page.find(f"input[name={name}]")
        field.clear()
        field.send_keys(value)
    page.press("Sign in")


def go(page: Browser, where: str) -> None:
    page.run("location.hash = arguments[0]", where)


def report(server: ServerProcess, *events: dict[str, Any]) -> None:
    """Events as a task sends them."""
    body = "\n".join(json.dumps({"timestamp": int(time.time() * 1000), **event}) for event in events)
    headers = {"Authorization": f"Bearer {server.token()}", "Content-Type": "application/json-lines"}
    reply = server.session().post(f"{server.api}/events.add_batch", data=body, headers=headers, timeout=30)
    assert reply.json()["data"]["added"] == len(events)


def scalars(task: str, metric: str, variant: str, values: list[float]) -> list[dict[str, Any]]:
    fixed = {"type": "training_stats_scalar", "task": task, "metric": metric, "variant": variant}
    return [{**fixed, "iter": number, "value": value} for number, value in enumerate(values)]


# --- coming and going


def test_a_wrong_secret_is_said_to_be_wrong_and_the_right_one_opens_the_fleet(
    visitor: Browser, server: ServerProcess
) -> None:
    sign_in(visitor, server.access_key, "not the secret")
    visitor.wait_for_text("form [role=alert]", "does not know this access key")
    assert visitor.find("input[name=access_key]").get_property("value") == server.access_key
    assert visitor.find("input[name=secret_key]").get_property("value") == ""
    sign_in(visitor, server.access_key, server.secret_key)
    visitor.wait_for_text("#summary", "server ")
    visitor.find("[data-part=queues]")


def test_no_secret_is_left_where_scripts_or_addresses_keep_things(visitor: Browser, server: ServerProcess) -> None:
    page = visitor
    sign_in(page, server.access_key, server.secret_key)
    page.find("[data-part=workers]")
    kept = page.run("return [localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", f"{server.api}/ui"]
    assert server.secret_key not in page.driver.page_source
    requests = page.requests()
    assert not [url for url in requests if server.secret_key in url or server.access_key in url]
    cookies = page.driver.get_cookies()
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Lax")]
    assert server.secret_key not in json.dumps(cookies)


def test_signing_out_ends_the_session_for_good(visitor: Browser, server: ServerProcess) -> None:
    page = visitor
    sign_in(page, server.access_key, server.secret_key)
    page.find("[data-part=workers]")
    (cookie,) = page.driver.get_cookies()
    page.press("Sign out")
    page.find("input[name=access_key]")
    assert page.driver.get_cookies() == []
    assert "bench" not in page.text()
    reply = server.session().post(
        f"{server.api}/workers.get_all", headers={"Cookie": f"{cookie['name']}={cookie['value']}"}, timeout=10
    )
    assert reply.status_code == 401


def test_a_link_of_the_sdk_shows_its_task_once_somebody_has_signed_in(visitor: Browser, server: ServerProcess) -> None:
    task = server.new_task("linked from a log")
    visitor.driver.get(f"{server.api}/projects/{'a' * 32}/tasks/{task}/output/log")
    sign_in(visitor, server.access_key, server.secret_key)
    visitor.wait_for_text("[data-part=title]", "linked from a log")


# --- the fleet


def test_workers_are_seen_idle_and_running_with_their_task(page: Browser, server: ServerProcess, worker: str) -> None:
    def seen(state: str, task: str) -> list[str] | None:
        return next((row for row in page.rows("workers") if row[:3] == [worker, state, task]), None)

    row = page.wait(lambda: seen("idle", ""), what="an idle worker")
    assert row[6] == QUEUE
    task = create_script(server, TICKS, queue=QUEUE, name="keeps it busy")
    wait_for_status(server, task, "in_progress")
    page.look_again()
    row = page.wait(lambda: seen("running", "keeps it busy"), what="a running worker")
    assert "1 busy" in page.text("#summary")
    page.press("Abort task", within="[data-part=workers]", sure=True)
    wait_for_status(server, task, "stopped")
    page.wait(lambda: seen("idle", ""), what="an idle worker again")


def test_workers_that_take_nothing_say_why(page: Browser, server: ServerProcess) -> None:
    task = server.new_task("the last one")
    said = {
        "t:closed": ("closed until 2031-01-05T08:00+00:00", r"closed until 2031-01-0\d \d\d:\d\d", ".+2031.+"),
        "t:cordoned": ("cordoned: GPU 1 is lost", "cordoned", "GPU 1 is lost"),
        "t:draining": ("draining", "running draining", ""),
        "t:forced": ("forced off", "forced off", ""),
        "t:paused": ("paused: new disks", "paused", "new disks"),
        "t:open": ("anything else", "idle", ""),
        "t:waiting": (f"waiting: {MARKUP}", "waiting", re.escape(MARKUP)),
    }
    for worker, (tag, _, _) in said.items():
        server.call("workers.register", worker=worker, queues=[], tags=["gpus", tag], timeout=600)
    server.call("tasks.started", task=task)
    server.call("workers.status_report", worker="t:draining", task=task, timestamp=0)
    titles = """
        const cells = [...document.querySelectorAll("[data-part=workers] .states")];
        return cells.map((cell) => [cell.parentNode.cells[0].innerText, cell.lastChild.title]);
    """
    try:
        page.look_again()
        page.wait(lambda: said.keys() <= {row[0] for row in page.rows("workers")}, what="the workers")
        states = {row[0]: " ".join(row[1].split()) for row in page.rows("workers")}
        reasons = dict(page.run(titles))
        for worker, (_, state, reason) in said.items():
            assert re.fullmatch(state, states[worker]), (worker, states)
            assert re.fullmatch(reason, reasons[worker]), (worker, reasons)
    finally:
        for worker in said:
            server.call("workers.unregister", worker=worker)


def test_a_queue_shows_its_tasks_in_order_and_lets_them_be_moved(page: Browser, server: ServerProcess) -> None:
    name = f"unwatched {uuid4().hex[:6]}"
    page.find("input[aria-label='name of a new queue']").send_keys(name)
    page.press("Create queue")
    page.wait(lambda: any(row[:2] == [name, "0"] for row in page.rows("queues")), what="the new queue")
    queue = server.call("queues.get_all", name=name)["queues"][0]["id"]
    tasks = {each: server.new_task(each) for each in ("first", "second", "third")}
    for task in tasks.values():
        server.call("tasks.enqueue", task=task, queue=queue)
    part = f"waiting-{queue}"

    def order() -> list[str]:
        return [row[1] for row in page.rows(part)]

    page.look_again()
    page.wait(lambda: order() == ["first", "second", "third"], what="the tasks in order")
    row = next(row for row in page.rows("queues") if row[0] == name)
    assert (row[1], row[3]) == ("3", "nobody listens")
    page.press("Top", within=f"[data-part='{part}'] tr:nth-child(3)")
    page.wait(lambda: order() == ["third", "first", "second"], what="the third on top")
    page.press("Take out", within=f"[data-part='{part}'] tr:nth-child(1)")
    page.wait(lambda: order() == ["first", "second"], what="two left")
    assert status_of(server, tasks["third"]) == "created"
    entries = server.call("queues.get_by_id", queue=queue)["queue"]["entries"]
    assert [entry["task"] for entry in entries] == [tasks["first"], tasks["second"]]


# --- tasks


def test_tasks_are_listed_with_their_status_and_found_by_name(page: Browser, server: ServerProcess) -> None:
    tag = uuid4().hex[:6]
    for name, end in (("good", "completed"), ("bad", "failed"), ("draft", None)):
        task = server.new_task(f"{name} {tag}")
        if end:
            server.call("tasks.started", task=task)
            server.call(f"tasks.{end}", task=task, status_reason=f"it was {name}", force=True)
    go(page, "tasks")
    search = page.find("input[type=search]")
    search.send_keys(tag)
    page.press("Search")

    def listed() -> dict[str, list[str]]:
        return {row[0]: row[1:3] for row in page.rows("tasks") if len(row) > 1}

    expected = {
        f"good {tag}": ["completed", "it was good"],
        f"bad {tag}": ["failed", "it was bad"],
        f"draft {tag}": ["created", ""],
    }
    page.wait(lambda: listed() == expected, what=str(expected))
    page.run(
        "const s = document.querySelector('select'); s.value = 'failed'; s.dispatchEvent(new Event('change'))",
    )
    page.wait(lambda: set(listed()) == {f"bad {tag}"}, what="only the failed one")


def test_a_running_task_shows_its_console_and_curve_and_can_be_aborted(
    page: Browser, server: ServerProcess, worker: str
) -> None:
    task = create_script(server, TICKS, queue=QUEUE, name="runs until somebody aborts it")
    report(server, *scalars(task, "loss", "train", [1 / (1 + number) for number in range(50)]))
    go(page, f"task={task}")
    wait_for_status(server, task, "in_progress")
    page.look_again()
    page.wait_for_text("[data-part=title]", "in progress")
    seen = page.wait_for_text("pre", "tick 3\n")
    assert "tick 0\ntick 1\ntick 2\n" in seen
    page.wait_for_text("pre", f"tick {seen.count('tick') + 10}\n")
    assert page.run("const c = document.querySelector('pre'); return c.scrollHeight - c.scrollTop - c.clientHeight") < 2
    assert worker in page.text("[data-part=details]")

    assert page.find("figure svg").get_attribute("aria-label") == "loss"
    points = page.run("return document.querySelector('polyline').getAttribute('points')").split()
    heights = [float(point.split(",")[1]) for point in points]
    assert len(points) == 50
    assert heights == sorted(heights)  # it falls: the axis of a drawing points down
    assert "train: 0.02" in page.text("figure")

    page.press("Abort", within="[data-part=title]", sure=True)
    page.wait_for_text("[data-part=title]", "stopped")
    assert status_of(server, task) == "stopped"
    last = page.text("pre").rstrip().splitlines()
    numbers = [int(line.split()[1]) for line in last if line.startswith("tick ")]
    assert numbers == list(range(len(numbers)))  # no line was lost or shown twice while it grew


def test_a_task_is_reset_enqueued_again_and_cloned(page: Browser, server: ServerProcess, worker: str) -> None:
    task = create_script(server, "print('said once')", queue=QUEUE, name="short")
    wait_for_status(server, task, "completed")
    go(page, f"task={task}")
    page.wait_for_text("pre", "said once")
    page.press("Reset", within="[data-part=title]", sure=True)
    page.wait_for_text("[data-part=title]", "created")
    page.wait(lambda: page.text("pre") == "", what="an empty console")

    queue = server.call("queues.get_all", name=QUEUE)["queues"][0]["id"]
    page.run("document.querySelector('[data-part=title] select').value = arguments[0]", queue)
    page.press("Enqueue", within="[data-part=title]")
    page.wait_for_text("[data-part=title]", "completed")
    assert page.wait_for_text("pre", "said once").count("said once") == 1

    page.press("Clone", within="[data-part=title]")
    page.wait_for_text("[data-part=title]", "created")
    (clone,) = (one["id"] for one in server.call("tasks.get_all", parent=task, only_fields=["id"])["tasks"])
    assert page.driver.current_url.endswith(f"#task={clone}")
    page.press("Delete", within="[data-part=title]", sure=True)
    page.find("[data-part=tasks]")
    assert server.call("tasks.get_all", id=[clone])["tasks"] == []


# --- what others wrote


def test_what_people_wrote_is_shown_as_text(page: Browser, server: ServerProcess) -> None:
    queue = server.new_queue(f"{MARKUP} {uuid4().hex[:6]}")
    task = server.new_task(MARKUP, tags=[MARKUP], script={"repository": "javascript:alert(1)", "entry_point": MARKUP})
    server.call("tasks.enqueue", task=task, queue=queue)
    line = {"type": "log", "task": task, "level": "DEBUG", "msg": f"\x1b[31m{MARKUP}\x1b[0m<script>owned()</script>"}
    report(server, line, *scalars(task, MARKUP, MARKUP, [1.0, 2.0]))
    server.call("workers.register", worker=MARKUP, queues=[queue], timeout=600)
    try:
        go(page, "tasks")
        page.wait(lambda: any(row[0] == MARKUP for row in page.rows("tasks")), what="the name in the list")
        go(page, "fleet")
        page.wait(lambda: page.rows(f"waiting-{queue}"), what="the queue")
        assert page.text("[data-part=queues]").count(MARKUP) == 1
        assert page.text("[data-part=workers]").count(MARKUP) >= 1
        go(page, f"task={task}")
        assert page.wait_for_text("pre", "owned()") == f"{MARKUP}<script>owned()</script>\n"
        assert MARKUP in page.text("[data-part=title]")
        assert page.text("figure").count(MARKUP) == 2
        page.press("Delete", within="[data-part=title]")
        assert MARKUP in page.text("dialog")
        page.press("Cancel", within="dialog")
        pieces = "return document.querySelectorAll('img, main script, main [onerror], a[href^=\"javascript\"]').length"
        assert page.run(pieces) == 0
        assert page.run("return document.documentElement.dataset.owned ?? null") is None
    finally:
        server.call("workers.unregister", worker=MARKUP)


def test_nothing_is_asked_of_anybody_else_and_the_browser_would_not_let_it(
    page: Browser, server: ServerProcess
) -> None:
    task = server.new_task("looked at")
    for where, piece in (("tasks", "tasks"), (f"task={task}", "details"), ("fleet", "workers")):
        go(page, where)
        page.find(f"[data-part={piece}]")
    asked = page.requests()
    assert len(asked) > 10
    assert {url.rsplit("/", 1)[0].removesuffix("/ui") for url in asked if not url.startswith("data:")} == {server.api}
    refused = """
        const seen = new Promise((settle) => addEventListener("securitypolicyviolation",
            (event) => settle(`${event.effectiveDirective} ${event.blockedURI}`)));
        fetch(arguments[0]).catch(() => null);
        return seen;
    """
    assert page.run(refused, f"{server.files}/secret") == f"connect-src {server.files}/secret"
    page.complaints()  # the refusal that was asked for


# --- how it looks

# The page wider than the window; pieces that stick out of it (tables scroll in their own box); pieces over each other.
ACCIDENTS = """
    const box = (one) => one.getBoundingClientRect();
    const pieces = "header > *, main button, main select, section, h2, pre, figure";
    const shown = [...document.querySelectorAll(pieces)].filter((one) => one.offsetParent && !one.closest(".wide"));
    const out = shown.filter((one) => box(one).left < 0 || box(one).right > innerWidth + 0.5);
    const parts = [...document.querySelectorAll("header > :not([hidden]), main > section")].map(box);
    const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
    const pairs = parts.flatMap((a, index) => parts.slice(index + 1).filter((b) => meet(a, b)));
    const text = out.map((one) => one.outerHTML.slice(0, 80));
    return [document.documentElement.scrollWidth > innerWidth, text, pairs.length];
"""


@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080), (600, 900)], ids=["laptop", "desk", "narrow"])
def test_nothing_sticks_out_or_overlaps_in_light_and_dark(
    page: Browser, server: ServerProcess, size: tuple[int, int]
) -> None:
    task = server.new_task("a name without any blank: " + "x" * 200, tags=["tag" * 30])
    server.call("tasks.enqueue", task=task, queue=server.new_queue(f"q{uuid4().hex}" * 3))
    report(
        server,
        {"type": "log", "task": task, "level": "DEBUG", "msg": "y" * 2000},
        *scalars(task, "loss", "train", [3e-9, 1.0, 123456.789]),
    )
    for scheme in ("light", "dark"):
        page.look_like(width=size[0], height=size[1], scheme=scheme)
        shade = sum(map(int, page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]))
        assert (shade > 600) is (scheme == "light")
        for where, piece in (("fleet", "workers"), ("tasks", "tasks"), (f"task={task}", "scalars")):
            go(page, where)
            page.find(f"[data-part={piece}]")
            page.run("scrollTo(0, 0)")
            assert page.run(ACCIDENTS) == [False, [], 0], (scheme, where)


def test_a_server_that_does_not_answer_is_said_until_it_does_again(page: Browser, server: ServerProcess) -> None:
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": True})
    try:
        page.look_again()
        page.wait_for_text("#problem", "does not answer")
        assert "Workers" in page.text("main")  # what was known stays in view
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": False})
    page.look_again()
    page.wait(lambda: not page.text("#problem"), what="no problem any more")
    page.complaints()  # of the requests that found nobody


def test_a_refused_action_says_why_and_typing_is_not_disturbed(page: Browser, server: ServerProcess) -> None:
    queue = f"mine {uuid4().hex[:6]}"
    server.new_queue(queue)
    field = page.find("input[aria-label='name of a new queue']")
    field.send_keys(queue)
    page.press("Create queue")
    page.wait_for_text("#problem", "queue of this name exists")
    page.look_again()
    page.wait(lambda: any(row[0] == queue for row in page.rows("queues")), what="the view was asked again")
    assert "queue of this name exists" in page.text("#problem")
    assert page.find("input[aria-label='name of a new queue']").get_property("value") == queue
    page.complaints()  # the browser notes every refusal
