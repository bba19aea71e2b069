"""`stepwell chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from stepwell.base.errors import StepwellError
from stepwell.base.units import format_seconds
from stepwell.cli import options
from stepwell.cli.output import note

if TYPE_CHECKING:
    from stepwell.cli.local import LocalEngine
    from stepwell.cli.remote import TurnStats

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class _Chat(Protocol):
    """Answers a conversation piece by piece; `stats` tells about the last answer."""

    stats: TurnStats | None

    def turn(self, messages: list[dict[str, str]], **fields: Any) -> Generator[str, None, None]: ...


@app.command()
def chat(
    model: options.Model = None,
    url: Annotated[
        str | None, typer.Option(help="Talk to this server instead, such as http://host:8000/v1.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEPWELL_API_KEY", help="Key for --url.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    kv: options.Kv = None,
    weights_budget: options.WeightsBudget = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
) -> None:
    """Chat with a model. `/reset` starts over, `/exit` ends, Ctrl-C stops an answer.

    Example: [bold]stepwell chat house[/bold], or
    [bold]stepwell chat --url http://127.0.0.1:8000/v1[/bold]
    """
    with ExitStack() as stack:
        if url is not None:
            from stepwell.cli.remote import RemoteChat

            remote = RemoteChat(url, api_key=api_key)
            stack.callback(remote.close)
            note(f"talking to {remote.model()} at {url}")
            backend: _Chat = remote
        else:
            from stepwell.cli.local import local_engine

            flags = {"model.device": device, "model.dtype": dtype, "model.weights": weights}
            flags |= {"model.kv": kv, "model.weights_budget": weights_budget}
            chosen = options.make_config(model=model, file=config, settings=settings, flags=flags)
            backend = _LocalChat(stack.enter_context(local_engine(chosen)))
        _converse(backend, system=system, max_tokens=max_tokens, temperature=temperature)


def _converse(backend: _Chat, *, system: str | None, max_tokens: int, temperature: float) -> None:
    """Read lines until the input ends. A refused message is dropped from the conversation."""
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    for line in _lines():
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(opening)
            note("the conversation starts over")
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            answer = _show(backend.turn(asked, max_tokens=max_tokens, temperature=temperature))
        except StepwellError as error:
            note(f"error [{error.code}]: {error}")
            continue
        messages = [*asked, {"role": "assistant", "content": answer}]
        if backend.stats is not None:
            note(_summary(backend.stats))


def _lines() -> Iterator[str]:
    """Non-empty lines of stdin, with a prompt when a person types."""
    person = sys.stdin.isatty()
    while True:
        try:
            line = input("you> " if person else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line.strip()


def _show(pieces: Generator[str, None, None]) -> str:
    """Print an answer as it comes; Ctrl-C ends it early. Returns what was printed."""
    parts: list[str] = []
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            parts.append(piece)
    except KeyboardInterrupt:
        pieces.close()
    print(flush=True)
    return "".join(parts)


def _summary(stats: TurnStats) -> str:
    return (
        f"[{stats.prompt_tokens} prompt tokens, {stats.cached_tokens} cached; first token "
        f"{format_seconds(stats.first_token)}; {stats.output_tokens} tokens at "
        f"{stats.tokens_per_second:.0f}/s]"
    )


class _LocalChat:
    """Chat turns on an engine in this process."""

    def __init__(self, local: LocalEngine) -> None:
        self._local = local
        self.stats: TurnStats | None = None

    def turn(self, messages: list[dict[str, str]], **fields: Any) -> Generator[str, None, None]:
        from stepwell.cli.remote import TurnStats

        start = time.perf_counter()
        first = 0.0
        self.stats = None
        pending = self._local.submit({"messages": messages, **fields})
        for delta in pending:
            if delta.text:
                first = first or time.perf_counter() - start
                yield delta.text
        usage = pending.builder.usage()
        total = time.perf_counter() - start
        self.stats = TurnStats(
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            output_tokens=usage["completion_tokens"],
            first_token=first or total,
            total=total,
        )
