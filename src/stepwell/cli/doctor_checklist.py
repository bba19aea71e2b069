"""`stepwell doctor checklist`: is this deployment ready for production?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.cli import options
from stepwell.cli.output import moving_line, print_json, print_table

if TYPE_CHECKING:
    from stepwell.doctor.checklist.evidence import Live
    from stepwell.doctor.checklist.probe import ProbeResult
    from stepwell.doctor.checklist.run import Checklist

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

FAILED_EXIT, UNKNOWN_EXIT = 1, 3
_MARKS = {"pass": "pass", "fail": "FAIL", "unknown": "?"}


@app.command()
def checklist(
    url: Annotated[str | None, typer.Argument(help="The server.")] = None,
    config: options.ConfigFile = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Send prompts twice and compare times to first token.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Folder with results of stepwell bench hierarchy.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEPWELL_API_KEY", help="Key, where it needs one.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print how each item is judged, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """The production checklist of a deployment: pass, fail or unknown, each with its evidence, from
    a live server (any engine that `stepwell doctor` reads), from stepwell.toml, or both.

    Exit code 0: all pass; 1: something fails; 3: nothing fails, something is unknown.

    Example: [bold]stepwell doctor checklist http://127.0.0.1:8000 --probe[/bold]
    """
    if explain:
        _explain(as_json=as_json)
        return
    if url is None and config is None:
        raise ConfigError("what is to be checked?", hint="Give a URL, --config FILE, or both.")
    if url is None and probe:
        raise ConfigError("--probe sends requests.", hint="Give the server's URL.")
    found = _check(url, config, probe=probe, results=results, api_key=api_key)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    if found.counts["fail"]:
        sys.exit(FAILED_EXIT)
    if found.counts["unknown"]:
        sys.exit(UNKNOWN_EXIT)


def _check(
    url: str | None, config: Path | None, *, probe: bool, results: Path | None, api_key: str | None
) -> Checklist:
    from stepwell.doctor.checklist.evidence import Evidence, read_results
    from stepwell.doctor.checklist.run import check

    settings = load_config(config) if config is not None else None
    if results is not None and not results.is_dir():
        raise ConfigError(f"{results} is no folder.", hint="Name that of the result files.")
    live, probed = _live(url, api_key, wants_probe=probe) if url is not None else (None, None)
    files = read_results(results) if results is not None else None
    return check(Evidence(live=live, config=settings, probe=probed, results=files))


def _live(url: str, api_key: str | None, *, wants_probe: bool) -> tuple[Live, ProbeResult | None]:
    from stepwell.doctor.checklist.evidence import look
    from stepwell.doctor.checklist.probe import probe
    from stepwell.doctor.fetch import connected

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with connected(url, headers=headers) as server, moving_line() as say:
        say("looking at the server")
        live = look(server)
        if not wants_probe:
            return live, None
        say("sending prompts twice")
        return live, probe(
            server.root,
            model=live.card.name,
            headers=headers,
            max_model_len=live.card.max_model_len,
        )


def _print(found: Checklist) -> None:
    rows = [
        (_MARKS[item.status.value], item.title, item.evidence, item.action) for item in found.items
    ]
    print_table("production checklist", ("", "item", "evidence", "what to do"), rows)
    print(", ".join(f"{count} {status}" for status, count in found.counts.items()))


def _explain(*, as_json: bool) -> None:
    from stepwell.doctor.checklist.run import RULES

    if as_json:
        print_json([{"code": r.code, "title": r.title, "how": r.how} for r in RULES])
        return
    print_table("how each item is judged", ("item", "how"), [(r.title, r.how) for r in RULES])
