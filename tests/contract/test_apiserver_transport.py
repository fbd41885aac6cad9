"""The transport of the server over real sockets: methods, authentication, envelopes, errors, limits."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import time
from typing import Any

import jwt
import pytest
import requests
from support.apiserver import CallError, ServerProcess

UNKNOWN = "0" * 32


def raw(
    server: ServerProcess,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    authorised: bool = True,
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(server.api.removeprefix("http://"), timeout=30)
    sent = {"Authorization": f"Bearer {server.token()}"} if authorised else {}
    try:
        connection.request(method, path, body, {**sent, **(headers or {})})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def meta_of(body: bytes) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(body)["meta"]
    return meta


def basic(server: ServerProcess) -> str:
    return "Basic " + base64.b64encode(f"{server.access_key}:{server.secret_key}".encode()).decode()


# --- methods and paths


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize(
    "path", ["/tasks.get_all", "/v2.23/tasks.get_all", "/v2.5/tasks.get_all/", "/api/v99/tasks.get_all"]
)
def test_methods_are_equal_and_versions_are_optional(server: ServerProcess, method: str, path: str) -> None:
    body = json.dumps({"id": [UNKNOWN], "method": method.lower(), "no_such_thing": 1}).encode()
    status, _headers, answer = raw(server, path, body, method=method)
    assert status == 200
    assert json.loads(answer)["data"]["tasks"] == []


def test_fields_come_from_the_query_too(server: ServerProcess) -> None:
    task = server.new_task("by query")
    status, _headers, answer = raw(server, f"/tasks.get_all?id[]={task}&only_fields=name&page=0", method="GET")
    assert status == 200
    assert json.loads(answer)["data"]["tasks"] == [{"id": task, "name": "by query"}]


def test_preflight_needs_no_credentials(server: ServerProcess) -> None:
    status, headers, body = raw(server, "/tasks.get_all", method="OPTIONS", authorised=False)
    assert (status, body) == (200, b"")
    assert headers["access-control-allow-origin"] == "*"


def test_the_envelope_names_the_call_and_echoes_the_transaction(server: ServerProcess) -> None:
    _status, headers, body = raw(server, "/v2.23/tasks.get_all", headers={"X-ClearML-Trx": "my-trx"})
    meta = meta_of(body)
    assert headers["server"] == "clearml"
    assert meta["trx"] == "my-trx"
    assert meta["endpoint"]["name"] == "tasks.get_all"
    assert meta["endpoint"]["requested_version"] == "2.23"
    assert (meta["result_code"], meta["result_subcode"], meta["result_msg"]) == (200, 0, "OK")
    assert len(meta["id"]) == 32


# --- authentication


def test_basic_bearer_and_cookie_are_accepted_on_any_call(server: ServerProcess) -> None:
    for headers in (
        {"Authorization": basic(server)},
        {"Authorization": f"Bearer {server.token()}"},
        {"Cookie": f"other=1; clearml_token_basic={server.token()}"},
    ):
        status, _headers, _body = raw(server, "/users.get_current_user", headers=headers, authorised=False)
        assert status == 200


def test_a_cookie_that_another_site_made_the_browser_send_is_not(server: ServerProcess) -> None:
    headers = {"Cookie": f"clearml_token_basic={server.token()}", "Sec-Fetch-Site": "cross-site"}
    status, _headers, _body = raw(server, "/users.get_current_user", headers=headers, authorised=False)
    assert status == 401


def test_login_without_a_body_gives_a_token_whose_claims_clients_read(server: ServerProcess) -> None:
    status, headers, body = raw(
        server, "/auth.login", method="GET", headers={"Authorization": basic(server)}, authorised=False
    )
    token = json.loads(body)["data"]["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert status == 200
    assert f"clearml_token_basic={token}" in headers["set-cookie"]
    assert "HttpOnly" in headers["set-cookie"]
    assert claims["api_version"] == "2.34"
    assert claims["server_version"] == "2.3.0"
    assert claims["feature_set"] == "basic"
    assert claims["auth_type"] == "Bearer"
    assert set(claims["identity"]) == {"user", "company", "role", "user_name", "company_name"}
    assert claims["exp"] - claims["iat"] == 2_592_000


def test_a_token_lives_as_long_as_was_asked(server: ServerProcess) -> None:
    token = server.call("auth.login", expiration_sec=1)["token"]
    assert server.call_as(token, "users.get_current_user", {})
    claims = jwt.decode(token, options={"verify_signature": False})
    server.wait_until(lambda: time.time() > claims["exp"])
    with pytest.raises(CallError) as refused:
        server.call_as(token, "users.get_current_user", {})
    assert refused.value.codes == (401, 30)


def test_a_logged_out_session_is_refused_and_others_go_on(server: ServerProcess) -> None:
    token = server.call("auth.login")["token"]
    server.call_as(token, "auth.logout", {})
    with pytest.raises(CallError) as refused:
        server.call_as(token, "users.get_current_user", {})
    assert refused.value.codes == (401, 30)
    assert server.call("users.get_current_user")["user"]["id"]


def test_credentials_can_be_made_used_and_revoked(server: ServerProcess) -> None:
    made = server.call("auth.create_credentials", label="for a test")["credentials"]
    pair = (made["access_key"], made["secret_key"])
    reply = requests.get(f"{server.api}/users.get_current_user", auth=pair, timeout=10)
    assert reply.status_code == 200
    shown = server.call("auth.get_credentials")["credentials"]
    assert [item["label"] for item in shown if item["access_key"] == pair[0]] == ["for a test"]
    assert all("secret" not in key for item in shown for key in item)
    assert server.call("auth.revoke_credentials", access_key=pair[0]) == {"revoked": 1}
    assert requests.get(f"{server.api}/users.get_current_user", auth=pair, timeout=10).status_code == 401
    with pytest.raises(CallError, match="400/75"):
        server.call("auth.revoke_credentials", access_key=pair[0])


def test_admins_may_act_as_others_and_users_may_not(server: ServerProcess) -> None:
    user = server.call("auth.create_user", name="another person")["id"]
    _status, _headers, body = raw(server, "/users.get_current_user", headers={"X-ClearML-Impersonate-As": user})
    assert json.loads(body)["data"]["user"]["id"] == user
    token = server.call("auth.get_token_for_user", user=user)["token"]
    owner = server.call("users.get_current_user")["user"]["id"]
    headers = {"Authorization": f"Bearer {token}", "X-ClearML-Impersonate-As": owner}
    status, _headers, body = raw(server, "/users.get_current_user", headers=headers, authorised=False)
    assert (status, meta_of(body)["result_subcode"]) == (400, 6)
    both = {"X-ClearML-Impersonate-As": user, "X-ClearML-Act-As": user}
    status, _headers, body = raw(server, "/users.get_current_user", headers=both)
    assert (status, meta_of(body)["result_subcode"]) == (400, 5)
    with pytest.raises(CallError) as refused:
        server.call_as(token, "auth.create_user", {"name": "somebody"})
    assert refused.value.codes == (403, 20)


def test_two_endpoints_are_open_and_health_is_for_probes(server: ServerProcess) -> None:
    for path in ("/debug.ping", "/auth.fixed_users_mode", "/login.supported_modes"):
        assert raw(server, path, authorised=False)[0] == 200
    for address in (server.api, server.files):
        reply = requests.get(f"{address}/health", timeout=10)
        assert reply.status_code == 200
        assert isinstance(reply.json(), dict)


# --- errors


BadRequest = tuple[str, bytes, dict[str, str], int, int]

BAD_REQUESTS: list[BadRequest] = [
    ("/v2.23/nope.nothing", b"", {}, 404, 0),
    ("/tasks", b"", {}, 400, 0),
    ("/v2.x/tasks.get_by_id", b"", {}, 400, 0),
    ("/tasks.get_by_id", b'{"task":', {}, 400, 0),
    ("/tasks.get_by_id", b"[1]", {}, 400, 0),
    ("/tasks.get_by_id", b'"x"', {}, 400, 0),
    ("/tasks.get_by_id", b"{}", {"Authorization": ""}, 401, 10),
    ("/tasks.get_by_id", b"{}", {"Authorization": "Foo x"}, 401, 10),
    ("/tasks.get_by_id", b"{}", {"Authorization": "Basic %%%"}, 401, 21),
    ("/tasks.get_by_id", b"{}", {"Authorization": "Basic bm9jb2xvbg=="}, 401, 21),
    ("/tasks.get_by_id", b"{}", {"Authorization": "Basic YTpi"}, 401, 22),
    ("/tasks.get_by_id", b"{}", {"Authorization": "Bearer nonsense"}, 401, 30),
    ("/tasks.get_by_id", b"{}", {}, 400, 12),
    ("/tasks.get_by_id", b'{"task": 5}', {}, 400, 12),
    ("/tasks.get_by_id", b'{"task": "%s"}' % UNKNOWN.encode(), {}, 400, 101),
    ("/tasks.get_by_id_ex", b"{}", {}, 400, 11),
    ("/tasks.create", b'{"name": "ab", "type": "training"}', {}, 400, 800),
    ("/tasks.create", b'{"type": "training"}', {}, 400, 12),
    ("/tasks.create", b'{"name": "abc", "project": "nothing"}', {}, 400, 401),
    ("/tasks.create", b'{"name": "abc", "parent": "nothing"}', {}, 400, 101),
    ("/tasks.get_all", b'{"order_by": ["no_such_field"]}', {}, 400, 14),
    ("/tasks.get_all", b'{"only_fields": ["no.such"]}', {}, 400, 14),
    ("/tasks.get_all", b'{"status": ["nothing"]}', {}, 400, 12),
    ("/queues.get_all", b'{"name": "("}', {}, 400, 21),
    ("/queues.get_all", b'{"tags": ["__$xor"]}', {}, 400, 16),
    ("/queues.get_all", b'{"page": -1}', {}, 400, 12),
    ("/queues.get_by_id", b'{"queue": "nothing"}', {}, 400, 701),
    ("/queues.get_next_task", b'{"queue": "nothing"}', {}, 400, 701),
    ("/queues.get_num_entries", b'{"queue": "nothing"}', {}, 400, 701),
    ("/queues.update", b'{"queue": "nothing", "name": "abc"}', {}, 400, 701),
    ("/queues.delete", b'{"queue": "nothing"}', {}, 400, 701),
    ("/queues.create", b'{"name": "default"}', {}, 400, 801),
    ("/queues.create", b'{"name": "ab"}', {}, 400, 800),
    ("/queues.create", b"{}", {}, 400, 12),
    ("/workers.register", b'{"worker": "w", "queues": ["nothing"]}', {}, 400, 701),
    ("/workers.register", b'{"worker": "w", "timeout": 0}', {}, 400, 1002),
    ("/workers.register", b"{}", {}, 400, 12),
    ("/workers.status_report", b'{"worker": "w", "timestamp": 1, "task": "nothing"}', {}, 400, 101),
    ("/workers.status_report", b'{"worker": "w", "timestamp": 1, "queues": ["nothing"]}', {}, 400, 701),
    ("/workers.status_report", b'{"worker": "w", "timestamp": 1, "machine_stats": {"a": "b"}}', {}, 400, 12),
    ("/workers.status_report", b'{"worker": "w"}', {}, 400, 12),
    ("/workers.set_runtime_properties", b'{"worker": "w", "runtime_properties": []}', {}, 400, 12),
    ("/workers.set_runtime_properties", b'{"worker": "w", "runtime_properties": [{"value": "x"}]}', {}, 400, 12),
    (
        "/workers.set_runtime_properties",
        b'{"worker": "w", "runtime_properties": [{"key": "k", "value": "x", "expiry": "soon"}]}',
        {},
        400,
        12,
    ),
    ("/auth.login", b'{"expiration_sec": -1}', {}, 400, 12),
    ("/auth.login", b'{"expiration_sec": "long"}', {}, 400, 12),
    ("/tasks.clone", b'{"task": "nothing"}', {}, 400, 101),
    ("/tasks.reset", b'{"task": "nothing"}', {}, 400, 101),
    ("/tasks.delete", b'{"task": "nothing"}', {}, 400, 101),
    ("/tasks.started", b'{"task": "nothing"}', {}, 400, 101),
    ("/tasks.stop", b'{"task": "nothing"}', {}, 400, 101),
    ("/tasks.set_requirements", b'{"task": "nothing", "requirements": {}}', {}, 400, 101),
    ("/tasks.edit_hyper_params", b'{"task": "x", "hyperparams": [{"section": "", "name": "a"}]}', {}, 400, 12),
    ("/tasks.get_hyper_params", b'{"tasks": ["nothing"]}', {}, 400, 101),
    ("/tasks.enqueue_many", b'{"ids": []}', {}, 400, 12),
    ("/models.get_by_id", b'{"model": "nothing"}', {}, 400, 201),
    ("/models.create", b'{"name": "abc"}', {}, 400, 12),
]


@pytest.mark.parametrize("case", BAD_REQUESTS, ids=lambda case: f"{case[0]} {case[1].decode()[:60]}")
def test_bad_input_gets_its_documented_refusal(server: ServerProcess, case: BadRequest) -> None:
    path, body, headers, code, subcode = case
    status, _headers, answer = raw(server, path, body, headers=headers)
    meta = meta_of(answer)
    assert (status, meta["result_code"], meta["result_subcode"]) == (code, code, subcode), meta["result_msg"]
    assert json.loads(answer)["data"] == {}
    assert meta["result_msg"][:1].isupper()


def test_no_credentials_is_refused_without_a_dialog_of_the_browser(server: ServerProcess) -> None:
    status, headers, body = raw(server, "/tasks.get_by_id", b"{}", authorised=False)
    assert (status, meta_of(body)["result_subcode"]) == (401, 20)
    assert "www-authenticate" not in headers


def test_an_unknown_id_is_named_in_the_message(server: ServerProcess) -> None:
    with pytest.raises(CallError) as refused:
        server.call("tasks.get_by_id", task=UNKNOWN)
    assert refused.value.text.startswith(f"Invalid task id: id={UNKNOWN}, company=")
    assert refused.value.meta["error_data"]["id"] == UNKNOWN


def test_a_body_that_does_not_parse_closes_the_connection(server: ServerProcess) -> None:
    status, headers, _body = raw(server, "/tasks.get_all", b'{"task":')
    assert status == 400
    assert headers["connection"] == "close"


def test_a_body_that_is_too_large_gets_an_envelope_and_no_invitation_to_retry(server: ServerProcess) -> None:
    status, headers, body = raw(server, "/tasks.create", b" " * (65 * 1024 * 1024))
    assert (status, meta_of(body)["result_code"]) == (413, 413)
    assert "retry-after" not in headers


def test_a_large_edit_within_the_limit_is_stored_whole(server: ServerProcess) -> None:
    task = server.new_task()
    diff = "+ä line of a diff\n" * 400_000
    server.call("tasks.edit", task=task, script={"diff": diff})
    assert server.call("tasks.get_by_id", task=task)["task"]["script"]["diff"] == diff


def test_encoded_request_bodies_are_refused_as_plain_text(server: ServerProcess) -> None:
    status, headers, _body = raw(server, "/tasks.get_all", gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    assert status == 415
    assert headers["content-type"].startswith("text/plain")


def test_only_long_replies_are_compressed(server: ServerProcess) -> None:
    accepts = {"Accept-Encoding": "gzip, deflate"}
    _status, headers, body = raw(server, "/debug.ping", headers=accepts)
    assert "content-encoding" not in headers
    assert json.loads(body)
    _status, headers, body = raw(server, "/queues.get_all", headers=accepts)
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(body))["data"]["queues"]


def test_nan_is_taken_in_and_never_given_back(server: ServerProcess) -> None:
    task = server.new_task()
    status, _headers, _body = raw(
        server, "/tasks.edit", b'{"task": "%s", "runtime": {"a": NaN, "b": 1}}' % task.encode()
    )
    assert status == 200
    assert server.call("tasks.get_by_id", task=task)["task"]["runtime"] == {"b": 1}


def test_the_server_lists_its_extensions(server: ServerProcess) -> None:
    info = server.call("server.info")
    assert info["name"] == "gpufleet"
    held = {"get_next_task.wait", "get_next_task.claim", "get_next_task.watch", "tasks.status_wait"}
    assert held | {"events.log_ids", "tasks.started.claim"} <= set(info["features"])
