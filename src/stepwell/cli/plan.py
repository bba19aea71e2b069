"""`stepwell plan MODEL`: what a model needs, what the hardware gives, and what to do about it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.base.units import parse_bytes
from stepwell.cli import options
from stepwell.cli.output import note, print_decisions, print_json
from stepwell.cli.plan_tables import show_list, show_plan
from stepwell.hardware.devices import THIS_MACHINE, Device, canonical_name, device
from stepwell.plan import local
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.explain import decisions
from stepwell.plan.read import read_model
from stepwell.plan.recommend import Wishes
from stepwell.plan.report import make_plan
from stepwell.plan.request import PlanRequest
from stepwell.plan.setup import Engine, Tiers, usual_tiers
from stepwell.plan.workload import PRESETS, parse_tokens

app = typer.Typer(add_completion=False, rich_markup_mode="rich")
_Choice = TypeVar("_Choice", bound=Enum)


@app.command(no_args_is_help=True)
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, config.json, safetensors file or index, or a name of --list."
        ),
    ] = None,
    device_name: Annotated[
        str, typer.Option("--device", help="Of --list; cpu: this machine, measured.")
    ] = THIS_MACHINE,
    devices: Annotated[int, typer.Option(help="How many there are; 0: as few as do it.")] = 0,
    weights: Annotated[
        str | None, typer.Option(help="bf16, fp8, int8, int4, nf4, mxfp4; else chosen.")
    ] = None,
    kv: Annotated[str | None, typer.Option(help="model, fp8, int8, int4; else chosen.")] = None,
    context: Annotated[
        str | None, typer.Option(help="Tokens of a typical session, such as 32k.")
    ] = None,
    workload: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")] = "chat",
    users: Annotated[int, typer.Option(help="Open sessions to serve; 0: as many as fit.")] = 0,
    slo: Annotated[str, typer.Option(help="ttft=1s,tpot=50ms; else the workload's.")] = "",
    host_memory: Annotated[
        str | None, typer.Option(help="Host memory for idle sessions of a group, as 256GiB.")
    ] = None,
    disk: Annotated[
        str | None, typer.Option(help="Disk for idle sessions of a group, as 1TiB.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Dollars an hour for one device; else the table's.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="stepwell or vllm; else chosen.")] = None,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure this machine again.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print models and devices.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it: FILE.png or FILE.svg.")] = None,
    explain: options.Explain = False,
    as_json: options.Json = False,
) -> None:
    """Know before you buy: memory, speed and cost of serving a model, and a recommendation.

    Example: [bold]stepwell plan qwen2.5-32b --device a100-80g[/bold]

    For a load: [bold]stepwell plan llama-3.1-8b --device h100 --workload chat --users 500
    --context 32k --slo ttft=1s,tpot=50ms[/bold]
    """
    if listed:
        show_list(as_json=as_json)
        return
    if model is None:
        raise ConfigError("no model named.", hint="stepwell plan --list", param="model")
    chosen = _device(device_name, price=price, remeasure=remeasure)
    wishes = Wishes(
        devices=_positive("devices", devices),
        weights=_choice("weights", weights, WeightPrecision),
        kv=_choice("kv", kv, KVPrecision),
        engine=_choice("engine", engine, Engine),
        tiers=_tiers(chosen, max(1, devices), host_memory, disk),
    )
    request = PlanRequest(
        spec=read_model(model),
        device=chosen,
        wishes=wishes,
        workload_name=workload,
        context=parse_tokens(context) if context else 0,
        users=_positive("users", users),
        slo=slo,
    )
    made = make_plan(request)
    document = made.as_dict()
    if plot is not None:
        from stepwell.plan.plot import plot_plan

        plot_plan(document, plot)
    if as_json:
        extra = {"decisions": [each.as_dict() for each in decisions(made)]} if explain else {}
        print_json(document | extra)
        return
    show_plan(document)
    if explain:
        print_decisions(decisions(made), as_json=False)


def _device(name: str, *, price: float | None, remeasure: bool) -> Device:
    if canonical_name(name) == THIS_MACHINE:
        found = local.this_machine(remeasure=remeasure, say=note)
    else:
        found = device(name)
    if price is None:
        return found
    if price < 0:
        raise ConfigError(f"price is {price}.", hint="Dollars an hour.", param="price")
    return found.at_price(price)


def _tiers(chosen: Device, count: int, host: str | None, disk: str | None) -> Tiers | None:
    """What is given; the other as usual; None where neither is."""
    if host is None and disk is None:
        return None
    usual = usual_tiers(chosen, count)
    return Tiers(
        host=usual.host if host is None else parse_bytes(host),
        disk=usual.disk if disk is None else parse_bytes(disk),
    )


def _choice(name: str, value: str | None, kind: type[_Choice]) -> _Choice | None:
    if value is None or value == "auto":
        return None
    valid = [str(each.value) for each in kind]
    if value not in valid:
        message, hint = unknown_name(name, value, valid)
        raise ConfigError(message, hint=hint, param=name)
    return kind(value)


def _positive(name: str, value: int) -> int:
    if value < 0:
        raise ConfigError(f"{name} is {value}.", hint="0 or more.", param=name)
    return value
