"""Events over HTTP: batches in, pages out, in the forms that clients rely on."""

import json
import time

import pytest
import requests
from support.apiserver import CallError, ServerProcess

NOTHING = -(2**31)


@pytest.fixture
def task(server):
    return new_task(server)


def new_task(server, **more):
    return server.call("tasks.create", name="reporting", type="training", **more)["id"]


def send(server, events, worker="a host"):
    """POST a batch and return the whole envelope."""
    return requests.post(
        f"{server.api}/v2.23/events.add_batch",
        data="\n".join(json.dumps(event) for event in events),
        headers={"Content-Type": "application/json-lines", "X-ClearML-Worker": worker},
        auth=(server.access_key, server.secret_key),
        timeout=30,
    ).json()


def added(server, events):
    reply = send(server, events)
    assert reply["meta"]["result_code"] == 200, reply["meta"]
    return reply["data"]


def refused(server, events):
    meta = send(server, events)["meta"]
    return meta["result_code"], meta["result_subcode"], meta["result_msg"]


def codes_of_refusal(server, endpoint, **fields):
    with pytest.raises(CallError) as error:
        server.call(endpoint, **fields)
    return error.value.codes


def log(task, msg, timestamp, **more):
    return {"type": "log", "task": task, "msg": msg, "timestamp": timestamp, "level": "info", "method": "get"} | more


def scalar(task, iteration, value, metric="loss", variant="train", **more):
    kind = "training_stats_scalar"
    return {"type": kind, "task": task, "iter": iteration, "metric": metric, "variant": variant, "value": value} | more


def plot(task, iteration, metric="m", variant="v", **more):
    text = json.dumps({"data": [iteration], "layout": {}})
    return {
        "type": "plot",
        "task": task,
        "iter": iteration,
        "metric": metric,
        "variant": variant,
        "plot_str": text,
    } | more


def image(task, iteration, variant="v"):
    url = f"http://files/{variant}/{iteration}.jpeg"
    kind = "training_debug_image"
    return {"type": kind, "task": task, "iter": iteration, "metric": "i", "variant": variant, "key": url, "url": url}


def messages(reply):
    return [event["msg"] for event in reply["events"]]


# --- adding ---


def test_a_batch_with_one_bad_event_is_stored_without_it(server, task):
    events = [log(task, "one", 1), {"type": "log", "task": "0" * 32, "msg": "x"}, log(task, "two", 2)]
    assert added(server, events) == {"added": 2, "errors": 1, "errors_info": {f"Invalid task id {'0' * 32}": 1}}
    assert messages(server.call("events.get_task_log", task=task, order="asc")) == ["one", "two"]


def test_blank_lines_in_a_batch_are_nothing(server, task):
    reply = requests.post(
        f"{server.api}/events.add_batch",
        data=f"\n\n{json.dumps(log(task, 'one', 1))}\n  \n",
        headers={"Content-Type": "application/json-lines"},
        auth=(server.access_key, server.secret_key),
        timeout=30,
    ).json()
    assert reply["data"]["added"] == 1


def test_batches_that_cannot_be_taken_say_why(server, task):
    assert refused(server, [])[:2] == (400, 17)
    assert refused(server, [5])[:2] == (400, 18)
    assert refused(server, [log(task, "x", 1), log(task, "x", 1, allow_locked=True)])[:2] == (400, 12)
    code, subcode, text = refused(server, [{"type": "log", "task": "X", "msg": "x"}] * 3)
    assert (code, subcode) == (400, 131)
    assert text == "Events not added: Invalid task id X=3"


def test_a_published_task_takes_only_what_is_meant_for_locked_ones(server, task):
    server.call("tasks.publish", task=task, force=True)
    assert refused(server, [log(task, "x", 1)])[:2] == (400, 131)
    assert added(server, [log(task, "x", 1, allow_locked=True)])["added"] == 1


def test_one_event_can_come_alone(server, task):
    assert server.call("events.add", **log(task, "alone", 1)) == {"added": 1, "errors": 0, "errors_info": {}}


def test_a_repeated_event_id_counts_as_added_and_is_stored_once(server, task):
    batch = [log(task, "a", 1, event_id="1"), log(task, "b", 2, event_id="2")]
    assert added(server, batch)["added"] == 2
    assert added(server, [*batch[1:], log(task, "c", 3, event_id="3")])["added"] == 2
    assert messages(server.call("events.get_task_log", task=task, order="asc")) == ["a", "b", "c"]


def test_an_event_id_belongs_to_one_task(server, task):
    other = new_task(server)
    added(server, [log(task, "a", 1, event_id="1"), log(other, "b", 1, event_id="1")])
    assert messages(server.call("events.get_task_log", task=other)) == ["b"]


def test_a_whole_batch_sent_again_is_stored_once_but_equal_lines_stay(server, task):
    batch = [log(task, "same", 5), log(task, "same", 5)]
    added(server, batch)
    assert added(server, batch)["added"] == 2
    assert messages(server.call("events.get_task_log", task=task)) == ["same", "same"]


def test_events_are_a_sign_of_life_of_their_task(server, task):
    server.call("tasks.started", task=task)
    before = server.call("tasks.get_by_id", task=task)["task"]
    added(server, [log(task, "x", 1)])
    after = server.call("tasks.get_by_id", task=task)["task"]
    assert after["last_update"] > before["last_update"]
    assert after["last_iteration"] == 0


def test_any_text_survives(server, task):
    text = 'tab\t nul\0 ünïcödé 日本 \u2028 \U0001f600 "quoted" \\ \x1b[31mred'
    added(server, [log(task, text, 1), log(task, "\ud83d half", 2)])
    assert messages(server.call("events.get_task_log", task=task, order="asc")) == [text, "? half"]


# --- the console ---


def test_the_console_is_read_backwards_and_forwards_without_gaps(server, task):
    lines = [f"line {number}" for number in range(50)]
    for start in range(0, 50, 7):
        added(server, [log(task, text, 100 + int(text[5:])) for text in lines[start : start + 7]])
    newest = server.call("events.get_task_log", task=task, batch_size=20)
    assert messages(newest) == lines[:29:-1]
    assert (newest["returned"], newest["total"]) == (20, 50)
    older = server.call(
        "events.get_task_log", task=task, batch_size=20, from_timestamp=newest["events"][-1]["timestamp"]
    )
    assert messages(older) == lines[10:30][::-1]
    forwards = server.call(
        "events.get_task_log", task=task, batch_size=3, navigate_earlier=False, from_timestamp=104, order="asc"
    )
    assert messages(forwards) == lines[5:8]
    last_page = server.call("events.get_task_log", task=task, batch_size=5, order="asc")
    assert messages(last_page) == lines[45:]


def test_a_page_ends_with_all_lines_of_its_last_moment(server, task):
    added(server, [log(task, str(number), 1 + number // 4) for number in range(12)])
    page = server.call("events.get_task_log", task=task, batch_size=2, navigate_earlier=False)
    assert messages(page) == ["0", "1", "2", "3"]
    rest = server.call("events.get_task_log", task=task, batch_size=5, navigate_earlier=False, from_timestamp=1)
    assert messages(rest) == ["4", "5", "6", "7", "8", "9", "10", "11"]


def test_the_console_can_be_downloaded_as_text(server, task):
    added(server, [log(task, "one\n", 1_700_000_000_000, worker="w"), log(task, "two", 1_700_000_001_000, worker="w")])
    auth = (server.access_key, server.secret_key)
    url = f"{server.api}/events.download_task_log"
    plain = requests.get(url, params={"task": task, "line_type": "text"}, auth=auth, timeout=10)
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.text == "2023-11-14T22:13:20.000+00:00 w info one\n2023-11-14T22:13:21.000+00:00 w info two\n"
    as_json = requests.get(url, params={"task": task}, auth=auth, timeout=10)
    assert [json.loads(line)["msg"] for line in as_json.text.splitlines()] == ["one\n", "two"]
    odd = {"task": task, "line_type": "text", "line_format": "{task}"}
    assert requests.get(url, params=odd, auth=auth, timeout=10).status_code == 400


def test_the_console_can_be_cleared(server, task):
    added(server, [log(task, "old", 1), log(task, "new", int(time.time() * 1000))])
    assert server.call("events.clear_task_log", task=task, threshold_sec=600) == {"deleted": 1}
    assert messages(server.call("events.get_task_log", task=task)) == ["new"]


# --- curves ---


def test_curves_come_back_by_metric_and_variant(server, task):
    added(server, [scalar(task, number, number / 2) for number in range(5)])
    added(server, [scalar(task, 7, 1.0, variant="test"), scalar(task, NOTHING, 0.5, metric="Summary")])
    reply = server.call("events.scalar_metrics_iter_histogram", task=task, key="iter")
    assert reply == {
        "loss": {
            "test": {"name": "test", "x": [7], "y": [1.0]},
            "train": {"name": "train", "x": [0, 1, 2, 3, 4], "y": [0.0, 0.5, 1.0, 1.5, 2.0]},
        }
    }
    only = server.call(
        "events.scalar_metrics_iter_histogram", task=task, metrics=[{"metric": "loss", "variants": ["test"]}]
    )
    assert list(only["loss"]) == ["test"]


def test_a_long_curve_is_sampled(server, task):
    added(server, [scalar(task, number, float(number)) for number in range(5_000)])
    curve = server.call("events.scalar_metrics_iter_histogram", task=task, samples=100)["loss"]["train"]
    assert len(curve["x"]) == len(curve["y"]) == 100
    assert curve["y"] == sorted(curve["y"])


def test_last_metrics_follow_the_reports(server, task):
    added(server, [scalar(task, 1, 4.0), scalar(task, 2, 2.0)])
    added(server, [scalar(task, 3, 3.0), scalar(task, 9, 1.0, metric=":monitor:machine")])
    found = server.call("tasks.get_by_id", task=task)["task"]
    (entry,) = [v for m in found["last_metrics"].values() for v in m.values() if v["metric"] == "loss"]
    assert (entry["value"], entry["min_value"], entry["max_value"], entry["count"]) == (3.0, 2.0, 4.0, 3)
    assert (entry["min_value_iteration"], entry["max_value_iteration"], entry["mean_value"]) == (2, 1, 3.0)
    assert found["last_iteration"] == 3


def test_tasks_can_be_sorted_by_a_metric(server):
    project = server.call("projects.create", name=f"sorted {time.time_ns()}")["id"]
    tasks = {value: new_task(server, project=project) for value in (0.2, 10.0, 9.0)}
    without = new_task(server, project=project)
    for value, task_id in tasks.items():
        added(server, [scalar(task_id, 1, value, metric="acc", variant="acc")])
    (metric,) = server.call("tasks.get_by_id", task=tasks[0.2])["task"]["last_metrics"]
    order = [f"-last_metrics.{metric}.{metric}.value"]
    found = server.call("tasks.get_all", project=[project], order_by=order, only_fields=["id"])["tasks"]
    assert [entry["id"] for entry in found] == [tasks[10.0], tasks[9.0], tasks[0.2], without]


def test_values_that_json_lacks_become_zero(server, task):
    body = json.dumps(scalar(task, 1, float("nan"))) + "\n" + json.dumps(scalar(task, 2, float("inf")))
    assert "NaN" in body
    reply = requests.post(
        f"{server.api}/events.add_batch",
        data=body,
        headers={"Content-Type": "application/json-lines"},
        auth=(server.access_key, server.secret_key),
        timeout=10,
    ).json()
    assert reply["data"]["added"] == 2
    assert server.call("events.scalar_metrics_iter_histogram", task=task)["loss"]["train"]["y"] == [0.0, 0.0]


def test_single_values(server, task):
    added(server, [scalar(task, NOTHING, 0.5, metric="Summary", variant="acc", timestamp=7), scalar(task, 1, 1.0)])
    reply = server.call("events.get_task_single_value_metrics", tasks=[task])
    value = {"metric": "Summary", "variant": "acc", "value": 0.5, "timestamp": 7}
    assert reply["tasks"] == [{"task": task, "task_name": "reporting", "values": [value]}]


def test_curves_of_several_tasks_are_laid_side_by_side(server, task):
    other = new_task(server)
    added(server, [scalar(task, 1, 1.0), scalar(other, 2, 2.0)])
    reply = server.call("events.multi_task_scalar_metrics_iter_histogram", tasks=[task, other])
    assert reply["metrics"]["loss"]["train"] == {
        task: {"name": "reporting", "x": [1], "y": [1.0]},
        other: {"name": "reporting", "x": [2], "y": [2.0]},
    }


def test_names_and_latest_values_of_curves(server, task):
    added(server, [scalar(task, 1, 1.0), scalar(task, 3, 2.0, variant="test"), plot(task, 1)])
    names = server.call("events.get_scalar_metrics_and_variants", task=task)
    assert names == {"metrics": {"loss": ["test", "train"]}}
    latest = server.call("events.get_task_latest_scalar_values", task=task)
    assert latest["last_iter"] == 3
    assert [variant["last_value"] for variant in latest["metrics"][0]["variants"]] == [2.0, 1.0]
    plots = server.call("events.get_task_metrics", tasks=[task], event_type="plot")
    assert plots == {"metrics": [{"task": task, "metrics": ["m"]}]}


def test_raw_points_come_in_pages(server, task):
    added(server, [scalar(task, number, float(number)) for number in range(25)])
    question = {"task": task, "metric": {"metric": "loss"}, "batch_size": 10}
    seen, scroll_id = [], None
    while True:
        page = server.call("events.scalar_metrics_iter_raw", **question, scroll_id=scroll_id)
        if not page["returned"]:
            break
        seen += page["variants"]["train"]["iter"]
        scroll_id = page["scroll_id"]
    assert (seen, page["total"]) == (list(range(25)), 25)


def test_metrics_of_a_project_are_listed_once(server):
    project = server.call("projects.create", name=f"metrics {time.time_ns()}")["id"]
    for _ in range(2):
        added(server, [scalar(new_task(server, project=project), 1, 1.0)])
    (metric,) = server.call("projects.get_unique_metric_variants", project=project)["metrics"]
    assert (metric["metric"], metric["variant"]) == ("loss", "train")


# --- plots, images, everything ---


def test_the_newest_plots_of_each_name(server, task):
    added(server, [plot(task, number) for number in range(3)] + [plot(task, 9, variant="w")])
    reply = server.call("events.get_task_plots", task=task)
    assert [(found["variant"], found["iter"]) for found in reply["plots"]] == [("v", 2), ("w", 9)]
    assert json.loads(reply["plots"][0]["plot_str"])["data"] == [2]
    assert (reply["returned"], reply["total"]) == (2, 2)
    again = server.call("events.get_task_plots", task=task, scroll_id=reply["scroll_id"])
    assert (again["plots"], again["returned"], again["scroll_id"]) == ([], 0, reply["scroll_id"])
    assert server.call("events.get_task_plots", task=task, iters=5)["total"] == 4


def test_images_are_paged_by_iteration(server, task):
    added(server, [image(task, number, variant) for number in range(5) for variant in "ab"])
    question = {"metrics": [{"task": task, "metric": "i"}], "iters": 2}

    def iterations(reply):
        return [page["iter"] for page in reply["metrics"][0]["iterations"]]

    newest = server.call("events.debug_images", **question)
    older = server.call("events.debug_images", **question, scroll_id=newest["scroll_id"])
    back = server.call("events.debug_images", **question, scroll_id=older["scroll_id"], navigate_earlier=False)
    fresh = server.call("events.debug_images", **question, scroll_id=older["scroll_id"], refresh=True)
    assert [iterations(reply) for reply in (newest, older, back, fresh)] == [[4, 3], [2, 1], [4, 3], [4, 3]]
    assert {event["variant"] for event in newest["metrics"][0]["iterations"][0]["events"]} == {"a", "b"}


def read_all(server, **question):
    """As the SDK does: on until the numbers add up to the total."""
    seen, returned, scroll_id = [], 0, None
    for _ in range(100):
        page = server.call("events.get_task_events", **question, scroll_id=scroll_id)
        seen += page["events"]
        returned += page["returned"]
        scroll_id = page["scroll_id"]
        if returned >= page["total"]:
            return seen
    raise AssertionError("the pages never add up to the total")


def test_everything_can_be_read_in_pages(server, task):
    events = [scalar(task, number, 1.0) for number in range(20)] + [plot(task, number) for number in range(0, 20, 4)]
    added(server, [*events, *(log(task, str(number), 100 + number) for number in range(10))])
    seen = read_all(server, task=task, batch_size=7)
    assert len(seen) == 35
    assert [event["iter"] for event in seen[:25]] == sorted(event["iter"] for event in seen[:25])
    assert [event["msg"] for event in seen[25:]] == [str(number) for number in range(10)]
    plots = read_all(server, task=task, event_type="plot", batch_size=2, order="desc")
    assert [event["iter"] for event in plots] == [16, 12, 8, 4, 0]
    logs = read_all(server, task=task, event_type="log", batch_size=3)
    assert [event["timestamp"] for event in logs] == list(range(100, 110))


def test_a_reader_comes_to_an_end_although_events_were_deleted_meanwhile(server, task):
    added(server, [log(task, str(number), number) for number in range(10)])
    first = server.call("events.get_task_events", task=task, event_type="log", batch_size=4)
    server.call("events.clear_task_log", task=task)
    second = server.call(
        "events.get_task_events", task=task, event_type="log", batch_size=4, scroll_id=first["scroll_id"]
    )
    assert (second["events"], second["returned"]) == ([], 6)
    third = server.call(
        "events.get_task_events", task=task, event_type="log", batch_size=4, scroll_id=second["scroll_id"]
    )
    assert (third["events"], third["returned"]) == ([], 0)


def test_a_scroll_id_is_good_for_its_own_question_only(server, task):
    added(server, [log(task, str(number), number) for number in range(10)])
    scroll_id = server.call("events.get_task_events", task=task, batch_size=4)["scroll_id"]
    wrong = {"task": task, "event_type": "log", "scroll_id": scroll_id}
    assert codes_of_refusal(server, "events.get_task_events", **wrong) == (400, 1104)
    assert codes_of_refusal(server, "events.get_task_events", task=task, scroll_id="nonsense") == (400, 1104)


def test_events_of_a_model(server):
    model = server.call("models.create", uri="file:///m", name="a model", ready=False)["id"]
    added(server, [scalar(model, 1, 0.5, model_event=True), plot(model, 1, model_event=True)])
    curves = server.call("events.scalar_metrics_iter_histogram", task=model, model_events=True)
    assert curves["loss"]["train"]["y"] == [0.5]
    assert server.call("events.get_task_plots", task=model, model_events=True)["total"] == 1
    assert codes_of_refusal(server, "events.get_task_plots", task="0" * 32, model_events=True) == (400, 201)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("events.get_task_log", {}),
        ("events.scalar_metrics_iter_histogram", {}),
        ("events.get_task_plots", {}),
        ("events.get_task_events", {}),
        ("events.delete_for_task", {}),
        ("events.clear_task_log", {}),
        ("events.get_scalar_metrics_and_variants", {}),
        ("events.scalar_metrics_iter_raw", {"metric": {"metric": "m"}}),
    ],
)
def test_an_unknown_task_and_a_missing_one_are_told_apart(server, endpoint, fields):
    assert codes_of_refusal(server, endpoint, task="0" * 32, **fields) == (400, 101)
    assert codes_of_refusal(server, endpoint, **fields) == (400, 12)


def test_events_of_a_task_can_be_deleted(server, task):
    added(server, [scalar(task, 1, 1.0), plot(task, 1), log(task, "x", 1)])
    assert server.call("events.delete_for_task", task=task) == {"deleted": 3}
    assert server.call("events.get_task_events", task=task)["events"] == []


def test_events_of_a_model_can_be_deleted(server):
    model = server.call("models.create", uri="file:///m", name="a model", ready=False)["id"]
    added(server, [scalar(model, 1, 0.5, model_event=True), plot(model, 1, model_event=True)])
    assert server.call("events.delete_for_model", model=model) == {"deleted": 2}
    assert codes_of_refusal(server, "events.delete_for_model", model="0" * 32) == (400, 201)


def test_plots_of_several_tasks_are_laid_side_by_side(server, task):
    other = new_task(server)
    added(server, [plot(task, 1), plot(task, 2), plot(other, 5)])
    reply = server.call("events.get_multi_task_plots", tasks=[task, other])
    assert (list(reply["plots"]["m"]["v"][task]), list(reply["plots"]["m"]["v"][other])) == (["2"], ["5"])
    assert reply["total"] == 2


def test_a_scroll_can_be_given_up(server, task):
    added(server, [log(task, "x", 1)])
    scroll_id = server.call("events.get_task_events", task=task)["scroll_id"]
    assert server.call("events.clear_scroll", scroll_id=scroll_id) == {}
    assert codes_of_refusal(server, "events.clear_scroll", scroll_id="nonsense") == (400, 1104)


# --- promises ---


def test_what_was_acknowledged_survives_a_kill():
    with ServerProcess() as server:
        task = new_task(server)
        added(server, [log(task, f"line {number}", number) for number in range(500)] + [scalar(task, 1, 1.0)])
        added(server, [plot(task, 1), log(task, "last", 1_000)])
        server.kill()
        server.restart()
        assert server.call("events.get_task_log", task=task)["total"] == 501
        assert messages(server.call("events.get_task_log", task=task, batch_size=1)) == ["last"]
        assert server.call("events.get_task_plots", task=task)["total"] == 1
        assert server.call("events.scalar_metrics_iter_histogram", task=task)["loss"]["train"]["x"] == [1]


def test_a_hundred_thousand_lines_arrive_in_order(server, task):
    lines = [f"{number:06d} {'x' * 60}" for number in range(100_000)]
    portions = ["\n".join(lines[start : start + 900]) for start in range(0, len(lines), 900)]
    for start in range(0, len(portions), 15):
        batch = portions[start : start + 15]
        added(server, [log(task, text, 1_000 + start + place) for place, text in enumerate(batch)])
    page = server.call("events.get_task_log", task=task, batch_size=1_000, navigate_earlier=False)
    assert "\n".join(messages(page)).split("\n") == lines
