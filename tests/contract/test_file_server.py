"""The file server as the SDK and browsers use it: uploads, downloads, deletions, and what it refuses."""

import errno
import http.client
import json
import os

import pytest
import requests
from support.apiserver import ServerProcess
from support.running_app import running

from apiserver import errors, file_tree
from apiserver.files import files_app

AUTH = {"Authorization": "Bearer good"}


async def only_good_tokens(request):
    if request.headers.get("authorization") != "Bearer good":
        raise errors.NO_CREDENTIALS()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def url(root):
    with running(files_app(root, only_good_tokens)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client():
    with requests.Session() as session:
        session.headers.update(AUTH)
        yield session


def raw(url, method, path, headers=AUTH, body=None):
    """A request whose path nobody touches on the way."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def upload(client, url, path, data):
    return client.post(url, files={path: (path, data, "application/octet-stream")}, timeout=10)


def test_an_upload_comes_back_byte_for_byte(client, url):
    data = os.urandom(3 * 1024 * 1024 + 17)
    reply = upload(client, url, "/Proj/task.0123/artifacts/a/big.bin", data)
    assert (reply.status_code, reply.json()) == (200, ["Proj/task.0123/artifacts/a/big.bin"])
    assert client.get(f"{url}/Proj/task.0123/artifacts/a/big.bin", timeout=10).content == data


def test_a_name_is_kept_literally_and_decoded_once_on_the_way_back(client, url, root):
    upload(client, url, "/Proj %C3%A9/t/a%20b.txt", b"literal")
    assert (root / "Proj %C3%A9" / "t" / "a%20b.txt").read_bytes() == b"literal"
    status, _, body = raw(url, "GET", "/Proj%20%25C3%25A9/t/a%2520b.txt")
    assert (status, body) == (200, b"literal")
    assert raw(url, "GET", "/Proj%20%C3%A9/t/a%20b.txt")[0] == 404


def test_a_name_in_utf8_comes_back_too(client, url):
    upload(client, url, "/naïve/日本.txt", "ü".encode())
    assert client.get(f"{url}/naïve/日本.txt", timeout=10).content == "ü".encode()


def test_several_parts_are_all_stored(client, url):
    reply = client.post(url, files={"/m/a": ("a", b"1"), "/m/b": ("b", b"2")}, timeout=10)
    assert reply.json() == ["m/a", "m/b"]


def test_a_later_upload_replaces_the_file(client, url):
    upload(client, url, "/again", b"first")
    upload(client, url, "/again", b"2nd")
    assert client.get(f"{url}/again", timeout=10).content == b"2nd"


def test_an_empty_file_is_a_file(client, url):
    assert upload(client, url, "/empty", b"").status_code == 200
    reply = client.get(f"{url}/empty", timeout=10)
    assert (reply.status_code, reply.content) == (200, b"")


def test_head_tells_the_size_without_the_content(client, url):
    upload(client, url, "/head.json", b"{}")
    reply = client.head(f"{url}/head.json", timeout=10)
    assert (reply.status_code, reply.headers["content-length"], reply.content) == (200, "2", b"")
    assert reply.headers["content-type"] == "application/json"


def test_a_packed_file_is_delivered_as_it_is(client, url):
    upload(client, url, "/x.json.gz", b"\x1f\x8b")
    reply = client.get(f"{url}/x.json.gz", timeout=10)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("bytes=2-4", (206, b"234", "bytes 2-4/10")),
        ("bytes=7-", (206, b"789", "bytes 7-9/10")),
        ("bytes=-3", (206, b"789", "bytes 7-9/10")),
        ("bytes=5-100", (206, b"56789", "bytes 5-9/10")),
        ("bytes=10-", (416, b"", "bytes */10")),
        ("bytes=4-2", (200, b"0123456789", None)),
        ("bytes=0-1,4-5", (200, b"0123456789", None)),
        ("lines=1-2", (200, b"0123456789", None)),
    ],
)
def test_ranges(client, url, asked, answer):
    upload(client, url, "/range", b"0123456789")
    reply = client.get(f"{url}/range", headers={"Range": asked}, timeout=10)
    assert (reply.status_code, reply.content, reply.headers.get("content-range")) == answer


def test_a_range_of_another_version_is_not_given(client, url):
    upload(client, url, "/if-range", b"0123")
    reply = client.get(f"{url}/if-range", headers={"Range": "bytes=0-1", "If-Range": '"old"'}, timeout=10)
    assert (reply.status_code, reply.content) == (200, b"0123")


def test_a_client_that_has_the_file_is_told_so(client, url):
    upload(client, url, "/cached", b"0123")
    first = client.get(f"{url}/cached", timeout=10)
    by_tag = client.get(f"{url}/cached", headers={"If-None-Match": first.headers["etag"]}, timeout=10)
    by_date = client.get(f"{url}/cached", headers={"If-Modified-Since": first.headers["last-modified"]}, timeout=10)
    assert (by_tag.status_code, by_date.status_code, by_tag.content) == (304, 304, b"")


def test_a_download_can_be_asked_for_as_an_attachment(client, url):
    upload(client, url, "/a b.txt", b"x")
    reply = client.get(f"{url}/a b.txt?download", timeout=10)
    assert reply.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b.txt"


def test_uploaded_pages_are_served_in_a_sandbox(client, url):
    upload(client, url, "/page.html", b"<script>")
    reply = client.get(f"{url}/page.html", timeout=10)
    assert reply.headers["content-security-policy"] == "sandbox allow-scripts"
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_a_deleted_file_is_gone(client, url):
    upload(client, url, "/gone/x", b"x")
    reply = client.delete(f"{url}/gone/x", timeout=10)
    assert (reply.status_code, reply.json()) == (200, "gone/x")
    assert client.get(f"{url}/gone/x", timeout=10).status_code == 404
    assert client.delete(f"{url}/gone/x", timeout=10).status_code == 404


def test_many_can_be_deleted_at_once(client, url):
    upload(client, url, "/many/a%20b", b"x")
    upload(client, url, "/many/deep/er/c", b"x")
    names = ["many/a%2520b", "many/deep", "many/no", ""]
    reply = client.post(f"{url}/delete_many", json={"files": names}, timeout=10).json()
    assert reply["deleted"] == {"many/a%2520b": "many/a%20b", "many/deep": "many/deep"}
    assert reply["errors"] == {"Not found": ["many/no"], "Empty path not allowed": [""]}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"file": 1}', b'{"files": 5}'])
def test_a_list_to_delete_that_is_none_is_refused(client, url, body):
    assert client.post(f"{url}/delete_many", data=body, timeout=10).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/x"), ("HEAD", "/x"), ("DELETE", "/x"), ("POST", "/"), ("POST", "/delete_many")]
)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer bad"}])
def test_nothing_is_done_for_a_stranger(url, method, path, headers):
    assert raw(url, method, path, headers=headers)[0] == 401


def test_probes_need_no_credentials(url):
    assert raw(url, "GET", "/health", headers={})[0] == 200
    assert raw(url, "GET", "/", headers={})[2] == b"OK"


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/a/%2e%2e/%2e%2e/x", "/%00", "/.incoming/x"],
)
def test_no_path_leads_outside(url, path):
    for method in ("GET", "DELETE"):
        assert raw(url, method, path)[0] == 404


@pytest.mark.parametrize("name", ["../outside", "/a/../../outside", "..", "", "/"])
def test_no_upload_leads_outside(client, url, root, name):
    body = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\nx\r\n--b--\r\n'.encode()
    status, _, _ = raw(url, "POST", "/", {**AUTH, "Content-Type": "multipart/form-data; boundary=b"}, body)
    assert status == 404
    assert not (root.parent / "outside").exists()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"something else"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nx\r\n--b--\r\n'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="cut"; filename="f"\r\n\r\nhalf of',
        ),
    ],
)
def test_a_body_without_a_whole_file_is_refused(url, root, kind, body):
    assert raw(url, "POST", "/", {**AUTH, "Content-Type": kind}, body)[0] == 400
    assert not (root / "cut").exists()
    assert os.listdir(root / ".incoming") == []


def test_a_full_disk_is_said_so_and_leaves_nothing(client, url, root, monkeypatch):
    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_tree.os, "write", full)
    reply = upload(client, url, "/full", b"x")
    assert reply.status_code == 507
    assert os.listdir(root / ".incoming") == []


def test_a_browser_of_another_origin_may_ask(url):
    status, headers, _ = raw(url, "OPTIONS", "/x", headers={})
    assert status == 200
    assert headers["access-control-allow-origin"] == "*"


def test_names_with_any_characters_survive_json(client, url):
    reply = upload(client, url, '/q"uo\\te', b"x")
    assert json.loads(reply.text)


def test_the_credentials_of_the_api_are_those_of_the_files():
    with ServerProcess() as server, requests.Session() as session:
        basic = (server.access_key, server.secret_key)
        assert session.post(server.files, files={"/a/b": ("b", b"x")}, auth=basic, timeout=10).status_code == 200
        url = f"{server.files}/a/b"
        bearer = {"Authorization": f"Bearer {server.token()}"}
        assert session.get(url, headers=bearer, timeout=10).content == b"x"
        assert session.get(url, cookies={"clearml_token_basic": server.token()}, timeout=10).content == b"x"
        session.cookies.clear()
        assert session.get(url, timeout=10).status_code == 401
        assert session.get(url, auth=(server.access_key, "wrong"), timeout=10).status_code == 401
        assert session.get(f"{server.files}/health", timeout=10).status_code == 200
        server.kill()
        server.restart()
        assert session.get(url, headers=bearer, timeout=10).content == b"x"
