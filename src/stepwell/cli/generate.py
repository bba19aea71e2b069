"""`stepwell generate`: answer prompts without a server."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.errors import ConfigError, StepwellError
from stepwell.cli import options
from stepwell.cli.output import note, print_decisions

if TYPE_CHECKING:
    from stepwell.cli.local import LocalEngine, Pending

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def generate(
    model: options.Model = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Prompt; repeatable. Else stdin.")
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="JSONL of request bodies, as POSTed to the server."),
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSONL of replies, in input order.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="For sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop text; repeatable.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    kv: options.Kv = None,
    weights_budget: options.WeightsBudget = None,
    pool: options.Pool = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    explain: options.Explain = False,
    as_json: options.Json = False,
) -> None:
    """Answer prompts offline, in one batch.

    Example: [bold]stepwell generate house -p "def main():" --max-tokens 40[/bold]
    """
    from stepwell.cli.local import local_engine

    flags = {"model.device": device, "model.dtype": dtype, "cache.pool": pool}
    flags |= {"model.weights": weights, "model.kv": kv}
    flags["model.weights_budget"] = weights_budget
    chosen = options.make_config(model=model, file=config, settings=settings, flags=flags)
    common = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": stop}
    bodies = list(_bodies(prompt, input_file, chat=chat, common=common))
    with local_engine(chosen) as local:
        if explain and as_json:
            print(json.dumps({"decisions": [d.as_dict() for d in local.engine.decisions]}))
        elif explain:
            print_decisions(local.engine.decisions, as_json=False)
        window = chosen.scheduler.max_sequences
        failed = _run(local, bodies, output_file, window=window, as_json=as_json)
    if failed:
        note(f"{failed} of {len(bodies)} prompts failed")
        raise typer.Exit(1)


def _bodies(
    prompts: list[str] | None, input_file: Path | None, *, chat: bool, common: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Request bodies from the file, the options or stdin."""
    if input_file is not None:
        yield from _read_jsonl(input_file)
        return
    for text in prompts or [sys.stdin.read()]:
        if not text.strip():
            raise ConfigError("there is no prompt.", hint="Use -p TEXT, -i FILE, or pipe one in.")
        asked: dict[str, Any] = (
            {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        )
        yield asked | common


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not valid JSON: {error}.") from error
        if not isinstance(body, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object.")
        yield body


def _run(
    local: LocalEngine,
    bodies: list[dict[str, Any]],
    output: Path | None,
    *,
    window: int,
    as_json: bool,
) -> int:
    """Answer all bodies, at most `window` at a time; returns how many failed."""
    from concurrent.futures import Future, ThreadPoolExecutor
    from contextlib import ExitStack

    failed = 0
    waiting: deque[Future[Pending | dict[str, Any]]] = deque()
    with ExitStack() as stack:
        file = stack.enter_context(output.open("w", encoding="utf-8")) if output else None
        # Threads, as each submission waits for the engine's current step.
        starters = stack.enter_context(ThreadPoolExecutor(window))

        def finish_one() -> int:
            item = waiting.popleft().result()
            reply = item if isinstance(item, dict) else item.reply()
            if file is not None:
                print(json.dumps(reply, ensure_ascii=False), file=file, flush=True)
            else:
                _show(reply, as_json=as_json)
            return int("error" in reply)

        for body in bodies:
            if len(waiting) >= window:
                failed += finish_one()
            waiting.append(starters.submit(_start, local, body))
        while waiting:
            failed += finish_one()
    return failed


def _start(local: LocalEngine, body: dict[str, Any]) -> Pending | dict[str, Any]:
    """The job, or its refusal as a reply."""
    from stepwell.server.errors import error_body

    try:
        return local.submit(body)
    except StepwellError as error:
        return error_body(error)


def _show(reply: dict[str, Any], *, as_json: bool) -> None:
    """A reply on stdout: the text, or all of it as one line of JSON."""
    if as_json:
        print(json.dumps(reply, ensure_ascii=False))
    elif "error" in reply:
        print(
            f"stepwell: error [{reply['error']['code']}]: {reply['error']['message']}",
            file=sys.stderr,
        )
    else:
        for choice in reply["choices"]:
            print(choice["text"] if "text" in choice else choice["message"]["content"])
