"""`stepwell doctor [URL]`: examine a live server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli import options
from stepwell.cli.output import note, phase_bar, print_json, print_table

if TYPE_CHECKING:
    from stepwell.doctor.examine import Report
    from stepwell.doctor.fetch import Server
    from stepwell.hardware.devices import Device
    from stepwell.plan.architecture import ModelSpec

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m)?$")
_UNITS = {None: 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0}

Header = Annotated[
    list[str] | None,
    typer.Option(metavar="'NAME: VALUE'", help="Sent with each look; repeatable."),
]


@app.command()
def live(
    url: Annotated[
        str, typer.Argument(help="The server, or its metrics page.")
    ] = "http://127.0.0.1:8000",
    window: Annotated[str, typer.Option(help="How long to look, such as 10s or 2m.")] = "10s",
    every: Annotated[str, typer.Option(help="Time between two looks.")] = "1s",
    api_key: Annotated[
        str | None, typer.Option(envvar="STEPWELL_API_KEY", help="Key, where it needs one.")
    ] = None,
    header: Header = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder, config.json or name of the model; default: as it says."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="What it runs on, such as h100, or cpu for this machine: for the roofline."
        ),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Longest wait for a page.")] = "5s",
    watch: Annotated[bool, typer.Option("--watch", help="Go on, window by window.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every threshold and formula, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Examine a live server (Stepwell, vLLM, SGLang, TGI, LMCache): where memory goes, what holds
    requests up, what to change. Reads /metrics and /v1/models only.

    Exit code 1 if a finding is of high severity, 2 for wrong usage.

    Example: [bold]stepwell doctor http://127.0.0.1:8000 --window 30s[/bold]
    """
    if explain:
        _explain(as_json=as_json)
        return
    from stepwell.doctor.fetch import connected

    seconds, step, longest = (_seconds(text) for text in (window, every, timeout))
    if step > seconds:
        raise ConfigError(f"--every {every} is longer than --window {window}.")
    chosen = _device(device)
    with connected(url, headers=_headers(header, api_key), timeout=longest) as server:
        while True:
            report = _look(server, seconds, step, model=model, device=chosen)
            _show(report, url=url, as_json=as_json)
            if not watch:
                break
    if not report.healthy:
        raise typer.Exit(1)


def _look(
    server: Server, seconds: float, every: float, *, model: str | None, device: Device | None
) -> Report:
    from stepwell.doctor.case import Case
    from stepwell.doctor.examine import examine

    with phase_bar() as say:
        watched = server.watch(
            seconds=seconds,
            every=every,
            on_look=lambda done: say(f"looking for {seconds:g} s", round(done), round(seconds)),
        )
    card = server.model()
    spec = _model(model, card.root or card.name)
    return examine(Case(watched, card, spec, device))


def _show(report: Report, *, url: str, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    from stepwell.cli.doctor_live_table import print_report

    print_report(report, url=url)


def _explain(*, as_json: bool) -> None:
    from stepwell.doctor.thresholds import FORMULAS, Thresholds

    rows = Thresholds().explained()
    if as_json:
        print_json({
            "thresholds": [{"name": n, "value": v, "meaning": m} for n, v, m in rows],
            "formulas": dict(FORMULAS),
        })  # fmt: skip
        return
    print_table("Thresholds", ("name", "value", "meaning"), [(n, f"{v:g}", m) for n, v, m in rows])
    print_table("Formulas", ("what", "how"), FORMULAS)


def _model(given: str | None, served: str) -> ModelSpec | None:
    """The plan's reading of the model; None, with a remark, where the served one is not known
    here. Raises StepwellError for one that was named and cannot be read."""
    from stepwell.base.errors import StepwellError
    from stepwell.plan.read import read_model

    if given is not None:
        return read_model(given)
    if not served:
        return None
    try:
        return read_model(served)
    except StepwellError as error:
        note(f"{served}: its plan is not known here ({error.code}), so bytes that the server does "
             "not report stay unknown. Name a folder or config.json with --model.")  # fmt: skip
        return None


def _device(name: str | None) -> Device | None:
    if name is None:
        return None
    from stepwell.hardware.devices import THIS_MACHINE, canonical_name, device
    from stepwell.plan.local import this_machine

    return this_machine(say=note) if canonical_name(name) == THIS_MACHINE else device(name)


def _headers(given: list[str] | None, api_key: str | None) -> dict[str, str]:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    for text in given or ():
        name, separator, value = text.partition(":")
        if not separator:
            raise ConfigError("a --header has no colon.", hint="Write 'Name: value'.")
        headers[name.strip().lower()] = value.strip()
    return headers


def _seconds(text: str) -> float:
    match = _DURATION.match(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"cannot read {text!r} as a time.", hint="Write 10s, 500ms or 2m.")
    return float(match[1]) * _UNITS[match[2]]
