"""A tenant's thread: nobody waits for it without an end, and no other tenant waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepwell.knowledge.base import Knowledge
from stepwell.server.auth import Role
from stepwell.server.errors import KnowledgeBusy
from stepwell.server.knowledge.books import Book
from stepwell.server.knowledge.reader import ModelReader
from stepwell.server.knowledge.routes import ROUTES
from stepwell.server.knowledge.switch import Switch
from tests.api.knowledge.conftest import GOTCHA, Shop

BODIES = {"releases/rollback": {"to": "r0001"}, "erase": {"id": "gotcha-0"}}


def never(_tenant: str) -> Knowledge:
    raise AssertionError("no base is needed here")


def test_a_busy_tenant_ends_the_wait_and_drops_what_has_not_begun(tmp_path: Path) -> None:
    asyncio.run(wait_in_vain(tmp_path))


async def wait_in_vain(tmp_path: Path) -> None:
    book = Book("shop", folder=tmp_path, open_base=never)
    began, free, done = threading.Event(), threading.Event(), []

    def block(_: Book) -> bool:
        began.set()
        return free.wait()

    busy = asyncio.ensure_future(book.run(block, seconds=None))
    while not began.is_set():
        await asyncio.sleep(0.001)
    with pytest.raises(KnowledgeBusy, match="nothing was done"):
        await book.run(lambda _: done.append("late"), seconds=0.01)
    left = asyncio.ensure_future(book.run(lambda _: done.append("left"), seconds=None))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    free.set()
    assert await busy
    assert await book.run(lambda _: "next", seconds=None) == "next"
    assert done == []
    book.close()


def test_what_has_begun_is_waited_for_whatever_it_takes(tmp_path: Path) -> None:
    asyncio.run(wait_for_all(tmp_path))


async def wait_for_all(tmp_path: Path) -> None:
    book = Book("shop", folder=tmp_path, open_base=never)
    began, free = threading.Event(), threading.Event()

    def slow(_: Book) -> str:
        began.set()
        free.wait()
        return "done"

    while not began.is_set():  # on a machine that stood still it may be dropped
        running = asyncio.ensure_future(book.run(slow, seconds=0.01))
        while not began.is_set() and not running.done():
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    free.set()
    assert await running == "done"
    book.close()


@contextmanager
def blocked(shop: Shop, tenant: str) -> Iterator[None]:
    """The tenant's thread does something else and does not end."""
    began, free = threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        free.wait()

    shop.running.app.knowledge.books.of(tenant)._thread.submit(block)
    assert began.wait(60)
    try:
        yield
    finally:
        free.set()


def test_every_path_of_a_busy_tenant_says_so_and_others_go_on(open_shop, monkeypatch) -> None:
    monkeypatch.setattr("stepwell.server.knowledge.http.PATIENCE", 0.02)
    shop = open_shop()
    with blocked(shop, "shop"):
        for route in ROUTES:
            path = route.path.replace("{id}", "gotcha-0").replace("{name}", "r0001")
            key = shop.ann if route.needs.role is Role.CONFIRM else shop.eve
            reply = key.call(route.method, path, BODIES.get(route.path))
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (503, "knowledge_busy"), route
            assert int(reply.headers["retry-after"]) >= 1
        assert shop.app.refused("POST", "entries", GOTCHA) == (503, "knowledge_busy")
        while (reply := shop.rival.call("GET", "me")).status_code == 503:
            continue  # a machine that stood still
        assert reply.json()["tenant"] == "rival"
    while (reply := shop.ann.call("GET", "entries")).status_code == 503:
        continue
    assert reply.json()["data"] == [], "what was refused was not done"


def test_a_release_waits_for_another_and_not_for_ever() -> None:
    asyncio.run(two_turns())


async def two_turns() -> None:
    switch = Switch(reader=object.__new__(ModelReader), patience=0.01)
    desk = type("Desk", (), {"book": type("Book", (), {"tenant": "shop"})})
    async with switch._turn(desk):
        with pytest.raises(KnowledgeBusy, match="under way"):
            async with switch._turn(desk):
                pass
    async with switch._turn(desk):
        pass
