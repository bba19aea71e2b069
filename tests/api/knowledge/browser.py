"""A headless Chromium on the review page, driven by keys only: what it presses, a keyboard can."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--window-size=1000,900",
)
_SECONDS = 60
_BUTTONS = """
    const [inside, words] = arguments;
    const fits = (one) => one.checkVisibility() && one.innerText.trim() === words;
    return [...inside.querySelectorAll("button, summary")].filter(fits);
"""
_SHOWN = "return document.querySelector(arguments[0]).checkVisibility();"
HOSTILE = (
    '<img src=x onerror="window.owned=1"><script>window.owned=1</script>'
    '<a href="javascript:owned=1">x</a> [x](javascript:owned=1) ${owned=1} {{owned=1}} \'"`'
)
_MADE = "return document.querySelectorAll('main :is(img, script, b, a:not([href^=\"#\"]))').length"
_LOADS = count()
"""An address that differs by more than its view is loaded anew."""


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver over an empty profile. Skips where there is no Chromium."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium or chromedriver (Debian: chromium, chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@dataclass
class Page:
    """The page of one server in the browser's one tab."""

    driver: Any
    root: str

    def open(self, key: str = "", view: str = "candidates") -> None:
        """Load it anew, with a key in the tab or none, and wait until the view has its data."""
        if not self.driver.current_url.startswith(f"{self.root}/"):
            self.driver.get(f"{self.root}/knowledge/icon.svg")
        self.driver.execute_script("sessionStorage.clear()")
        if key:
            self.driver.execute_script(
                "sessionStorage.setItem('stepwell.knowledge.key', arguments[0])", key
            )
        self.driver.get(f"{self.root}/knowledge?{next(_LOADS)}#{view}")
        self.wait(lambda: self.shown("#ask-key") or self.text("#trouble") or self.loaded(view))

    def loaded(self, view: str) -> bool:
        name = view.partition("/")[0]
        return self.shown(f"#{name}") and bool(self.text(f"#{name} .list"))

    def wait(self, done: Callable[[], Any]) -> Any:
        """Until it is true. An element that was replaced meanwhile is looked for again."""
        from selenium.common.exceptions import (
            NoSuchElementException,
            StaleElementReferenceException,
        )
        from selenium.webdriver.support.wait import WebDriverWait

        ignored = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, _SECONDS, poll_frequency=0.03, ignored_exceptions=ignored)
        return wait.until(lambda _: done())

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        """As it is read on the screen."""
        return str(self.find(css).get_property("innerText")).strip()

    def shown(self, css: str) -> bool:
        return bool(self.driver.execute_script(_SHOWN, css))

    def press(self, inside: str, words: str) -> None:
        """Enter on the button or summary with these words."""
        from selenium.webdriver import Keys

        (button,) = self.driver.execute_script(_BUTTONS, self.find(inside), words)
        button.send_keys(Keys.ENTER)

    def fill(self, css: str, text: str) -> None:
        field = self.find(css)
        field.clear()
        field.send_keys(text)

    def said(self, words: str) -> None:
        """Wait for a message of success, which screen readers are told."""
        self.wait(lambda: words in self.text("#said"))

    def refused(self, inside: str, words: str) -> str:
        """Wait for a refusal, which screen readers are told, and return all of it."""
        css = f"{inside} .refusal[role=alert]:not(:empty)"
        return str(self.wait(lambda: words in self.text(css) and self.text(css)))

    def script(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def complaints(self) -> list[str]:
        """What the browser logged, but for replies with an error status."""
        log = self.driver.get_log("browser")
        return [one["message"] for one in log if "Failed to load resource" not in one["message"]]


def card(name: str) -> str:
    """The selector of a candidate."""
    return f'article[data-id="{name}"]'


def nothing_ran(page: Page) -> None:
    """No script of a text, and no element but the page's own."""
    assert page.script("return window.owned === undefined")
    assert page.script(_MADE) == 0


def released(shop: Any, *entries: Any) -> str:
    """Entries in the release that is in force; its name."""
    for entry in entries:
        shop.ann.post(f"candidates/{shop.app.propose(entry)}/confirm")
    return str(shop.eve.post("releases")["name"])
