"""`stepwell demo`: a real server, a conversation over HTTP, and what the memory did.

Starts `stepwell serve` as a process of its own and resumes a long conversation in which the user
has told many facts. The first question is a cold prompt: the server sees all of it for the first
time. The later ones are warm: longer still, but mostly in the prefix cache.
"""

from __future__ import annotations

import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.errors import StepwellError
from stepwell.base.units import format_bytes, format_seconds
from stepwell.cli import options
from stepwell.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from stepwell.cli.remote import RemoteChat, TurnStats

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

WORDS = """
river castle stone lamp forest mountain valley island desert ocean beach storm garden rose tulip
maple cedar willow acorn apple peach lemon cherry mango carrot potato rice wheat honey butter bread
tiger lion bear wolf fox deer horse goat rabbit owl hawk falcon crow swan penguin whale dolphin
salmon crab turtle camel monkey gorilla zebra panda otter beaver table chair mirror curtain pillow
window door roof ladder bridge tunnel tower church palace barn mill school library museum ship boat
train wagon rocket engine wheel anchor rope needle ribbon silk jacket shirt glove boot necklace
crown sword shield arrow fork spoon bottle kettle candle torch hammer saw drill shovel basket trunk
key clock bell drum flute violin piano guitar poem letter pencil globe compass
""".split()
NOUNS = ("code", "value", "name", "color", "password", "number")
ASKED_AT = (0.1, 0.35, 0.6, 0.85)
"""Where in the conversation the asked facts stand (0 is the beginning)."""
_READY = "Stepwell is ready: "
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
_LOG_LINES = 30


class DemoFailed(StepwellError):
    """The server of the demo did not start, answer or stop."""

    code = "demo_failed"


@app.command()
def demo(
    model: options.Model = None,
    facts: Annotated[
        int, typer.Option(min=4, max=len(WORDS), help="Facts told in the resumed conversation.")
    ] = 100,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Start a server, chat with it over HTTP, and show cold against warm prompts.

    Example: [bold]stepwell demo[/bold] (offline, about a minute)
    """
    with tempfile.TemporaryDirectory(prefix="stepwell-demo-") as folder:
        log = Path(folder) / "server.log"
        try:
            with _server(model or "house", settings or [], log) as url:
                result = _talk(url, facts=_facts(facts), quiet=as_json)
        except StepwellError:
            print(_tail(log), file=sys.stderr)
            raise
    if as_json:
        print_json(result)
    else:
        print_table("What the memory did", ("measure", "value"), _rows(result))


@contextmanager
def _server(model: str, settings: list[str], log: Path) -> Iterator[str]:
    """A server process on a free port; told to stop at the end, and its exit status checked."""
    command = [sys.executable, "-m", "stepwell.cli.main", "serve", model, "--port", "0"]
    for item in settings:
        command += ["--set", item]
    note("starting: stepwell serve " + " ".join(command[4:]))
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield _wait_ready(process, log)
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise DemoFailed("the server did not stop after SIGTERM.") from error
            if status != 0:
                raise DemoFailed(f"the server ended with status {status}.")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The printed address. Raises DemoFailed when the process ends or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith(_READY) and line.endswith("\n"):
                return line.removeprefix(_READY).strip()
        if process.poll() is not None:
            raise DemoFailed(f"the server ended with status {process.returncode} while starting.")
        time.sleep(0.1)
    raise DemoFailed(f"the server was not ready after {_START_SECONDS:.0f} s.")


@dataclass(frozen=True, slots=True)
class Fact:
    """`The code for river is castle.`"""

    noun: str
    key: str
    value: str

    @property
    def sentence(self) -> str:
        return f"The {self.noun} for {self.key} is {self.value}."

    @property
    def question(self) -> str:
        return f"What is the {self.noun} for {self.key}?"


def _facts(count: int) -> list[Fact]:
    """Facts with distinct keys, the same on every run."""
    stride = 37  # coprime to the number of words, so that values differ, and differ from keys
    return [
        Fact(NOUNS[i % len(NOUNS)], WORDS[i], WORDS[(i * stride + 11) % len(WORDS)])
        for i in range(count)
    ]


def _history(facts: list[Fact]) -> list[dict[str, str]]:
    """The conversation so far: two facts a message, each acknowledged."""
    messages = []
    for first, second in itertools.zip_longest(facts[::2], facts[1::2]):
        told = first.sentence if second is None else f"{first.sentence} {second.sentence}"
        messages.append({"role": "user", "content": told})
        messages.append({"role": "assistant", "content": "I will remember that."})
    return messages


def _talk(url: str, *, facts: list[Fact], quiet: bool) -> dict[str, Any]:
    """The conversation, and what was measured."""
    from stepwell.cli.remote import RemoteChat

    chat = RemoteChat(url)
    try:
        note(f"{chat.model()} answers at {url}")
        list(chat.turn([{"role": "user", "content": "Hello!"}], max_tokens=8, temperature=0))
        messages = _history(facts)
        if not quiet:
            print(f"\n[a conversation of {len(messages)} messages with {len(facts)} facts, such as")
            print(f" {messages[0]['content']!r}, is resumed]")
        turns: list[TurnStats] = []
        right = 0
        for place in ASKED_AT:
            fact = facts[int(place * len(facts))]
            messages.append({"role": "user", "content": fact.question})
            answer = _ask(chat, messages, quiet=quiet)
            right += fact.value in answer
            assert chat.stats is not None
            turns.append(chat.stats)
            messages.append({"role": "assistant", "content": answer})
        return _measured(turns, chat.metrics(), right=right)
    finally:
        chat.close()


def _ask(chat: RemoteChat, messages: list[dict[str, str]], *, quiet: bool) -> str:
    """One turn, printed while it streams."""
    if not quiet:
        print(f"\nyou>   {messages[-1]['content']}\nmodel> ", end="", flush=True)
    parts = []
    for piece in chat.turn(messages, max_tokens=32, temperature=0):
        parts.append(piece)
        if not quiet:
            print(piece, end="", flush=True)
    if not quiet:
        print(flush=True)
        stats = chat.stats
        assert stats is not None
        note(
            f"       {stats.prompt_tokens} prompt tokens, {stats.cached_tokens} of them cached; "
            f"first token after {format_seconds(stats.first_token)}"
        )
    return "".join(parts).strip()


def _measured(turns: list[TurnStats], metrics: dict[str, float], *, right: int) -> dict[str, Any]:
    cold, warm = turns[0], turns[1:]
    warm_seconds = statistics.median(turn.first_token for turn in warm)
    decoding = sum(turn.total - turn.first_token for turn in turns)
    tokens = sum(max(0, turn.output_tokens - 1) for turn in turns)
    return {
        "cold_prompt_tokens": cold.prompt_tokens,
        "cold_cached_tokens": cold.cached_tokens,
        "cold_ttft_seconds": cold.first_token,
        "warm_prompt_tokens": warm[-1].prompt_tokens,
        "warm_cached_tokens": warm[-1].cached_tokens,
        "warm_ttft_seconds": warm_seconds,
        "ratio": cold.first_token / warm_seconds if warm_seconds else 0.0,
        "recalled": right,
        "asked": len(turns),
        "tokens_per_second": tokens / decoding if decoding > 0 else 0.0,
        "blocks_total": int(metrics["stepwell_kv_blocks_total"]),
        "blocks_used": int(metrics["stepwell_kv_blocks_used"]),
        "blocks_cached": int(metrics["stepwell_kv_blocks_cached"]),
        "waste_ratio_mean": metrics["stepwell_kv_waste_ratio_mean"],
        "prefix_hit_tokens": int(metrics["vllm:prefix_cache_hits_total"]),
        "prefix_query_tokens": int(metrics["vllm:prefix_cache_queries_total"]),
        "weights_bytes": int(metrics["stepwell_weights_bytes"]),
        "kv_pool_bytes": int(metrics["stepwell_kv_pool_bytes"]),
    }


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "first token, cold prompt",
            f"{format_seconds(result['cold_ttft_seconds'])}   "
            f"({result['cold_prompt_tokens']} tokens, {result['cold_cached_tokens']} cached)",
        ),
        (
            "first token, warm prompts (median)",
            f"{format_seconds(result['warm_ttft_seconds'])}   "
            f"(last: {result['warm_prompt_tokens']} tokens, {result['warm_cached_tokens']} cached)",
        ),
        ("cold / warm", f"{result['ratio']:.1f} times"),
        ("facts recalled", f"{result['recalled']} of {result['asked']}"),
        ("output tokens per second", f"{result['tokens_per_second']:.0f}"),
        (
            "KV blocks used / cached / total",
            f"{result['blocks_used']} / {result['blocks_cached']} / {result['blocks_total']}",
        ),
        ("slots wasted in used blocks (mean)", f"{result['waste_ratio_mean']:.1%}"),
        (
            "prompt tokens found in the prefix cache",
            f"{result['prefix_hit_tokens']} of {result['prefix_query_tokens']}",
        ),
        (
            "weights / KV pool",
            f"{format_bytes(result['weights_bytes'])} / {format_bytes(result['kv_pool_bytes'])}",
        ),
    ]


def _tail(log: Path) -> str:
    """The end of the server's log."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(["--- end of the server's log ---", *lines[-_LOG_LINES:], "---"])
