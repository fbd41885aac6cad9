"""Chromium without a window, for tests of the web page as a person has it in front of them."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = "/usr/bin/chromium"
DRIVER = "/usr/bin/chromedriver"
# It asks nobody but the server: no updates, no lists, no names other than loopback.
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # there is none for root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1280,800",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile."""
    for program in (CHROMIUM, DRIVER):
        if not os.access(program, os.X_OK):
            pytest.fail(f"{program} is missing: `make test` installs the Debian packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with (
        tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("no_proxy", "localhost,127.0.0.1")  # for the talk with the driver
        environment = {**os.environ, "TMPDIR": place, "XDG_CONFIG_HOME": place, "XDG_CACHE_HOME": place}
        driver = webdriver.Chrome(options=options, service=Service(DRIVER, env=environment))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


class Browser:
    """What tests do with a page. Looking for something waits for it, because what the server says takes a moment."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    # --- looking

    def wait(self, condition: Callable[[], Any], *, seconds: float = 15.0, what: str = "") -> Any:
        """What `condition()` gives once that is true; pieces that come and go meanwhile are waited for too."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except (NoSuchElementException, StaleElementReferenceException):
                pass
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what or condition}; the page says: {self.text()}")
            time.sleep(0.03)

    def find(self, selector: str) -> WebElement:
        """The piece, once it can be seen."""

        def visible() -> WebElement | None:
            found = self.driver.find_element(By.CSS_SELECTOR, selector)
            return found if found.is_displayed() else None

        return self.wait(visible, what=selector)

    def text(self, selector: str = "body") -> str:
        """What is there to be read now; nothing when the piece is not there."""
        reading = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(reading, selector))

    def rows(self, part: str) -> list[list[str]]:
        """The cells of the table of a part of the page."""
        reading = "return [...document.querySelectorAll(arguments[0])].map(row => [...row.cells].map(c => c.innerText))"
        found: list[list[str]] = self.driver.execute_script(reading, f'[data-part="{part}"] tbody tr')
        return found

    def wait_for_text(self, selector: str, text: str, *, seconds: float = 15.0) -> str:
        """The text of a piece once it contains this."""

        def seen() -> str | None:
            now = self.text(selector)
            return now if text in now else None

        return str(self.wait(seen, seconds=seconds, what=f"{text!r} in {selector}"))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script says that runs in the page; a promise is waited for."""
        return self.driver.execute_script(script, *arguments)

    # --- doing

    def press(self, label: str, *, within: str = "body", sure: bool = False) -> None:
        """Press the button with this label, and when asked whether that is meant (`sure`), once more."""

        def pressed() -> bool:
            buttons = self.driver.find_elements(By.CSS_SELECTOR, f"{within} button")
            button = next((one for one in buttons if one.text == label and one.is_displayed()), None)
            if button is None:
                return False
            button.click()
            return True

        self.wait(pressed, what=f"button {label!r}")
        if sure:
            self.find("dialog[open] [value=yes]").click()
            self.wait(lambda: not self.text("dialog[open]"), what="the question is gone")

    def look_again(self) -> None:
        """Come back to the page from another tab: it asks the server at once rather than some seconds later."""
        self.run("document.dispatchEvent(new Event('visibilitychange'))")

    def look_like(self, *, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """A window of this size, for a person of this preference."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def keep_cookie(self, name: str, value: str, *, url: str) -> None:
        """Have a cookie as a server sets it for its pages alone."""
        cookie = {"name": name, "value": value, "url": url, "httpOnly": True, "sameSite": "Lax"}
        self.driver.execute_cdp_cmd("Network.setCookie", cookie)

    def forget_everything(self) -> None:
        """Leave the page, without cookies and logs."""
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.requests()
        self.complaints()

    # --- what it did

    def requests(self) -> list[str]:
        """The addresses asked for since the last time."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (one["params"] for one in messages if one["method"] == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]

    def complaints(self) -> list[str]:
        """What the browser found wrong since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
