"""The web page: its login, its files, and that it asks for nothing the server does not have."""

import json
import re
from pathlib import Path

import pytest
import requests

import apiserver
from agent.worker.standing import Standing
from apiserver import endpoints

SCRIPT = Path(apiserver.__file__).parent / "web" / "page.js"


@pytest.fixture
def browser():
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_the_page_is_for_everybody_and_what_it_shows_for_those_who_have_credentials(server, browser):
    page = browser.get(f"{server.api}/ui", timeout=10)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert server.access_key not in page.text
    wrong = browser.post(f"{server.api}/auth.login", auth=(server.access_key, "wrong"), timeout=10)
    assert (wrong.status_code, browser.cookies.get_dict()) == (401, {})
    assert "www-authenticate" not in wrong.headers  # a browser would ask for credentials itself, and keep them
    assert browser.post(f"{server.api}/workers.get_all", json={}, timeout=10).status_code == 401


def test_the_login_of_the_page_is_a_cookie_for_the_api(server, browser):
    login = browser.post(f"{server.api}/auth.login", auth=(server.access_key, server.secret_key), timeout=10)
    assert "HttpOnly; SameSite=Lax" in login.headers["set-cookie"]
    workers = browser.post(f"{server.api}/workers.get_all", json={}, timeout=10)
    assert workers.json()["data"] == {"workers": []}
    elsewhere = browser.post(f"{server.api}/workers.get_all", headers={"Sec-Fetch-Site": "cross-site"}, timeout=10)
    assert elsewhere.status_code == 401


def test_everything_the_page_consists_of_is_here(server, browser):
    page = browser.get(f"{server.api}/ui/", timeout=10)
    parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(parts) == 2
    for part in parts:
        assert browser.get(f"{server.api}{part}", timeout=10).status_code == 200
    assert "http://" not in page.text + SCRIPT.read_text().replace("http://www.w3.org/2000/svg", "")
    assert browser.get(f"{server.api}/ui/page.html", timeout=10).status_code == 404
    assert browser.get(f"{server.api}/ui/..%2Fapp.py", timeout=10).status_code in (400, 404)


def test_the_links_that_the_sdk_prints_lead_to_the_page(server, browser):
    link = f"{server.api}/projects/{'a' * 32}/tasks/{'b' * 32}/output/log"
    reply = browser.get(link, allow_redirects=False, timeout=10)
    assert (reply.status_code, reply.headers["location"]) == (307, f"/ui#task={'b' * 32}")


def test_the_page_asks_only_for_what_there_is():
    endpoints.load_all()
    asked = set(re.findall(r'"((?:workers|queues|tasks|events|server)\.\w+)"', SCRIPT.read_text()))
    assert len(asked) > 10
    assert asked <= set(endpoints.names())


def test_the_page_knows_the_words_of_the_agents_in_their_order():
    (listed,) = re.findall(r"^const STANDINGS = (\[.*\]);$", SCRIPT.read_text(), re.MULTILINE)
    assert json.loads(listed) == [standing.value for standing in Standing if standing is not Standing.OPEN]
