"""Requests of one kind, by several clients at once, until they are told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

WORDS = (
    "sun river table stone green walk quiet letter house bread water light small road night book"
).split()
Prompt = Callable[[int, int], str | list[int]]
"""(client, number of its request) -> prompt, as text or tokens"""


@dataclass(slots=True)
class Traffic:
    """`clients` send `prompt`s, one after another, each with `output` tokens. `pause`: seconds
    between a reply and the next request of a client. `status`: how many replies of each code."""

    url: str
    prompt: Prompt
    clients: int = 4
    output: int = 40
    pause: float = 0.0
    status: Counter[int] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def flowing(self, *, warm_up: float = 1.0) -> Iterator[Traffic]:
        """Requests flow while the block runs, which begins after `warm_up` seconds."""
        threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        time.sleep(warm_up)
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(timeout=2)

    def _client(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=120) as client:
            count = 0
            while not self._over.is_set():
                body = {"model": "house", "prompt": self.prompt(number, count), "temperature": 0,
                        "max_tokens": self.output, "ignore_eos": True}  # fmt: skip
                try:
                    self.status[
                        client.post(self.url + "/v1/completions", json=body).status_code
                    ] += 1
                except httpx.HTTPError:
                    self.status[0] += 1
                count += 1
                self._over.wait(self.pause)


def words(count: int, *seed: object) -> str:
    """The same text for the same seed."""
    return " ".join(random.Random(str(seed)).choices(WORDS, k=count))


def chats(*, shared: int = 150, own: int = 50) -> Prompt:
    """One system prompt, and a question of its own for each request."""
    return lambda client, number: f"{words(shared)} {words(own, client, number)}"


def dated(*, shared: int = 300) -> Prompt:
    """The same text after something that is new each time."""
    return lambda client, number: f"{words(6, client, number)} {words(shared)}"


def unlike(*, length: int = 200) -> Prompt:
    """Nothing in common."""
    return lambda client, number: words(length, client, number)


def sessions(count: int, *, length: int = 400) -> Prompt:
    """Each client goes round `count` conversations of its own; each turn adds a little."""

    def prompt(client: int, number: int) -> str:
        turn, which = divmod(number, count)
        turns = " ".join(words(10, client, which, t) for t in range(turn))
        return f"{words(length, client, which)} {turns}"

    return prompt
