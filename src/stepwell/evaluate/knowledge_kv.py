"""Packs as KV, through a real server: how much of a pack is cached when it is asked for.

One course of requests over HTTP: a capture every tenth request, a release now and then. Each
request goes out twice, in turn: with the server's knowledge, and with all that is known written
into the system prompt by the client, best match first, as memories outside of servers do. Then a
rollback, and a restart with the device's memory gone and the disk tier there. The same course once
more without any cache says what the tokens have to be, and what computing costs.

A token of a pack is cached when the server's own count of the prompt's cached tokens reaches it.
"""

from __future__ import annotations

import argparse
import enum
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepwell.evaluate.knowledge_kv_server import Heard, KvServer
from stepwell.evaluate.shapes import house_folder
from stepwell.evaluate.statistics import median
from stepwell.hardware.machine import read_machine

Say = Callable[[str], None]
_SYSTEMS = ("You answer questions about a database.", "You write SQL. Be brief.")
_REQUESTS, _RELEASE_EVERY, _KNOWN = 120, 40, 28
_NOTHING = "zzz qqq"  # calls for no entry
_THINGS = ("orders", "invoices", "parcels", "returns", "visits", "tickets", "wages", "stocks",
           "claims", "leases", "trips", "meters")  # fmt: skip
_ASPECTS = ("revenue", "count", "delay", "margin", "backlog", "churn", "weight", "share")


class Check(enum.Enum):
    """What else is run: a killed server that is started again, and the course without a cache."""

    RESTART = "restart"
    UNCACHED = "uncached"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOptions:
    """`model`: a checkpoint folder. `requests`: of the course; `known`: entries at its start, which
    make the pack; `capture_every`, `release_every`: requests. `settings`: of every server."""

    model: Path
    requests: int = _REQUESTS
    known: int = _KNOWN
    capture_every: int = 10
    release_every: int = _RELEASE_EVERY
    output: int = 4
    checks: tuple[Check, ...] = tuple(Check)
    settings: dict[str, Any] = field(
        default_factory=lambda: {"model.dtype": "float32", "cache.pool": "512MiB"}
    )


def quick_options(model: Path) -> KvOptions:
    """A few seconds with the house model."""
    return KvOptions(model=model, requests=10, known=12, release_every=5, checks=())


@dataclass(slots=True)
class _Arm:
    """Requests of one arm. `known`: tokens of knowledge in the prompts, `hit`: those cached."""

    heard: list[Heard] = field(default_factory=list)
    known: int = 0
    hit: int = 0

    def add(self, heard: Heard, *, head: int, known: int) -> None:
        self.heard.append(heard)
        self.known += known
        self.hit += min(known, max(0, heard.cached - head))

    def figures(self) -> dict[str, Any]:
        return {
            "requests": len(self.heard),
            "prompt_tokens_mean": round(sum(h.prompt for h in self.heard) / len(self.heard)),
            "knowledge_tokens": self.known,
            "knowledge_tokens_cached": self.hit,
            "hit_rate": self.hit / self.known,
            "ttft_ms_p50": 1e3 * median([h.seconds for h in self.heard]),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `python -m stepwell.evaluate.knowledge_kv --out FILE`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="house", help="house, or a checkpoint folder")
    parser.add_argument("--without", nargs="*", default=(), choices=[c.value for c in Check])
    parser.add_argument("--requests", type=int, default=_REQUESTS)
    parser.add_argument("--release-every", type=int, default=_RELEASE_EVERY)
    parser.add_argument("--known", type=int, default=_KNOWN, help="entries at the start")
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    options = KvOptions(
        model=house_folder() if chosen.model == "house" else Path(chosen.model),
        requests=chosen.requests,
        release_every=chosen.release_every,
        known=chosen.known,
        checks=tuple(check for check in Check if check.value not in chosen.without),
    )
    figures = kv_figures(options, say=lambda text: print(text, file=sys.stderr))
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m stepwell.evaluate.knowledge_kv {options.model.name} "
        f"--requests {options.requests} --release-every {options.release_every} "
        f"--known {options.known}",
        "machine": read_machine().as_dict(),
        "model": options.model.name,
        "settings": options.settings,
        **figures,
        "summary": kv_summary(figures),
    }
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["summary"]))


def kv_figures(options: KvOptions, *, say: Say) -> dict[str, Any]:
    """All figures. Raises ContestantFailed, httpx.HTTPError, OSError."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tiers = {"tiers.disk": str(folder / "disk"), "tiers.disk_capacity": "2GiB"}
        settings = options.settings | tiers
        with KvServer(options.model, folder / "a", settings) as server:
            say("packs and naive prompts in turn")
            course = _Course(options, server)
            packs, naive = course.run(naive=True)
            result: dict[str, Any] = {"packs": packs.figures(), "naive": naive.figures()}
            say("rollback")
            result["rollback"] = course.roll_back()
            if Check.RESTART in options.checks:
                server.wait_until_stored()
                server.kill()
        if Check.RESTART in options.checks:
            say("a restart")
            with KvServer(options.model, folder / "a", settings, "again") as server:
                result["restart"] = course.ask_both(server)
        if Check.UNCACHED in options.checks:
            say("without a cache")
            result["uncached"] = _uncached(options, folder / "b", packs)
    course_figures = {
        "releases": course.releases, "captures": course.captures, "pack_tokens": course.pack,
    }  # fmt: skip
    return result | course_figures | {"blocks": _block_loss(packs, course)}


def _uncached(options: KvOptions, folder: Path, packs: _Arm) -> dict[str, Any]:
    """The same requests where nothing is reused: what the tokens must be."""
    bare = {"cache.prefix_caching": False, "knowledge.pin": False}
    with KvServer(options.model, folder, options.settings | bare) as server:
        plain, _ = _Course(options, server).run(naive=False)
    pairs = list(zip(packs.heard, plain.heard, strict=True))
    return {
        "ttft_ms_p50": 1e3 * median([heard.seconds for heard in plain.heard]),
        "tokens_compared": sum(len(heard.tokens) for heard in plain.heard),
        "tokens_that_differ": sum(
            a != b for one, other in pairs for a, b in zip(one.tokens, other.tokens, strict=True)
        ),
        "prompts_that_differ": sum(one.prompt != other.prompt for one, other in pairs),
    }


def kv_summary(figures: dict[str, Any]) -> dict[str, Any]:
    """What the one line at the end of a benchmark says."""
    packs, naive = figures["packs"], figures["naive"]
    compared = figures.get("uncached")
    differ = {} if compared is None else {"kv_tokens_that_differ": compared["tokens_that_differ"]}
    return differ | {
        "pack_prefix_hit_rate": round(packs["hit_rate"], 4),
        "naive_prefix_hit_rate": round(naive["hit_rate"], 4),
        "pack_ttft_ms": round(packs["ttft_ms_p50"], 1),
        "naive_ttft_ms": round(naive["ttft_ms_p50"], 1),
    }


def _block_loss(packs: _Arm, course: _Course) -> dict[str, float]:
    """What ending packs on block boundaries could gain at most: the cached tokens that the last,
    partial block of each pack misses; and what it would cost: half a block of padding an entry."""
    entries = course.options.known + course.captures
    return {
        "tokens_missed_a_request": (packs.known - packs.hit) / len(packs.heard),
        "padding_tokens_a_pack_of_whole_entries": 7.5 * entries,
        "padding_tokens_a_pack_of_one_end": 7.5,
    }


class _Course:
    """The same entries, questions and releases, whoever serves."""

    def __init__(self, options: KvOptions, server: KvServer) -> None:
        self.options = options
        self._server = server
        self._facts = _facts()
        self._texts: list[str] = []
        self.releases = self.captures = self.pack = 0
        self._names: list[str] = []

    def run(self, *, naive: bool) -> tuple[_Arm, _Arm]:
        """The course itself; the second arm is empty without `naive`."""
        arms, rng = (_Arm(), _Arm()), random.Random(11)
        for _ in range(self.options.known):
            self._capture()
        self._release()
        for system in _SYSTEMS:  # so that the first release is known to both heads
            for _ in range(2):
                self._ask(system, _NOTHING)
        for number in range(self.options.requests):
            if number and number % self.options.release_every == 0:
                self._release()
            if number % self.options.capture_every == 5:
                self._capture()
            thing, aspect = rng.choice(_THINGS), rng.choice(_ASPECTS)
            question = f"What is the {aspect} of {thing}, number {number}?"
            system = _SYSTEMS[number % len(_SYSTEMS)]
            heard = self._ask(system, question)
            arms[0].add(heard, head=self._server.head_tokens(system), known=self.pack)
            if naive:
                self._naive(arms[1], system, question)
        return arms

    def roll_back(self) -> dict[str, Any]:
        """To the release before, with the first requests after it."""
        began = time.monotonic()
        self._server.post("releases/rollback", {"to": self._names[-2]})
        seconds = time.monotonic() - began
        self._measure_pack()
        return {"seconds": seconds} | self.ask_both(self._server)

    def ask_both(self, server: KvServer) -> dict[str, Any]:
        """The first request of each head."""
        arm = _Arm()
        for system in _SYSTEMS:
            heard = server.chat(system, _NOTHING, knowledge=True, output=self.options.output)
            arm.add(heard, head=server.head_tokens(system), known=self.pack)
        first, *_ = arm.heard
        return arm.figures() | {"first_ttft_ms": 1e3 * first.seconds}

    def _ask(self, system: str, question: str) -> Heard:
        return self._server.chat(system, question, knowledge=True, output=self.options.output)

    def _naive(self, arm: _Arm, system: str, question: str) -> None:
        """All that is known, the best match first, behind the client's own system message."""
        words = set(question.lower().replace("?", "").replace(",", "").split())
        ranked = sorted(self._texts, key=lambda text: -len(words & set(text.split())))
        told = f"{system}\n\nMemories:\n" + "".join(f"- {text}\n" for text in ranked)
        heard = self._server.chat(told, question, knowledge=False, output=self.options.output)
        head = self._server.count(f"{system}\n\nMemories:\n")
        arm.add(heard, head=head, known=self._server.count("".join(f"- {t}\n" for t in ranked)))

    def _capture(self) -> None:
        payload, text = next(self._facts)
        made = self._server.post("entries", {"kind": "metric", "payload": payload})
        self._server.post(f"candidates/{made['id']}/confirm", {})
        self._texts.append(text)
        self.captures += self._names != []

    def _release(self) -> None:
        self._names.append(self._server.post("releases", {})["name"])
        self.releases += 1
        self._measure_pack()

    def _measure_pack(self) -> None:
        self.pack = self._server.pack_tokens(_SYSTEMS[0], _NOTHING)


def _facts() -> Iterator[tuple[dict[str, Any], str]]:
    """Metrics, each with what a client would write for it."""
    for round_ in range(100):
        for thing in _THINGS:
            for aspect in _ASPECTS[round_ % len(_ASPECTS) :][:1]:
                name = f"{aspect} of {thing}" + (f" {round_}" if round_ >= len(_ASPECTS) else "")
                payload = {
                    "name": name,
                    "expression": f"sum({thing}.{aspect}_cents) / 100",
                    "table": thing,
                    "note": f"without test rows; {aspect} is kept in cents since the move",
                }
                yield payload, f"{name} = {payload['expression']} over {thing}; {payload['note']}"


if __name__ == "__main__":
    main()
