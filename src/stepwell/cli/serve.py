"""`stepwell serve`: the OpenAI-compatible server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.base.config import Config
from stepwell.cli import options
from stepwell.cli.output import note, print_decisions

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

SAGEMAKER = {"server.host": "0.0.0.0", "server.port": 8080}
SAGEMAKER_MODEL = "/opt/ml/model"
"""What the SageMaker container contract fixes: address, port, and where the model is mounted."""

HostTier = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Host memory for idle context, such as 4GiB.")
]
DiskTier = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Folder for context that survives restarts.")
]
RemoteTier = Annotated[
    str | None, typer.Option(metavar="URL", help="Valkey or Redis, as redis://host:6379/0.")
]
Record = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a trace for `stepwell simulate`; it holds no text."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check settings, print the choices, do not serve.")
]
Sagemaker = Annotated[
    bool,
    typer.Option(
        "--sagemaker",
        envvar="STEPWELL_SAGEMAKER",
        help="SageMaker container contract: 0.0.0.0:8080 WITHOUT keys, /opt/ml/model.",
    ),
]


@app.command()
def serve(
    model: options.Model = None,
    host: Annotated[str | None, typer.Option(help="Address; any but loopback needs keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one.")] = None,
    name: Annotated[str | None, typer.Option(help="Model name in the API.")] = None,
    api_keys_file: Annotated[
        str | None, typer.Option(help="File with one `tenant:key user=NAME roles=ROLES` a line.")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    kv: options.Kv = None,
    weights_budget: options.WeightsBudget = None,
    max_model_len: options.MaxModelLen = None,
    pool: options.Pool = None,
    max_sequences: Annotated[int | None, typer.Option(help="Sequences per step.")] = None,
    host_tier: HostTier = None,
    disk_tier: DiskTier = None,
    remote_tier: RemoteTier = None,
    record: Record = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    explain: options.Explain = False,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    sagemaker: Sagemaker = False,
) -> None:
    """Serve a model over the OpenAI API until Ctrl-C or SIGTERM.

    Example: [bold]stepwell serve house --port 8000[/bold], then
    [bold]curl localhost:8000/v1/models[/bold]
    """
    flags: dict[str, Any] = {
        "server.host": host,
        "server.port": port,
        "model.name": name,
        "model.device": device,
        "server.api_keys_file": api_keys_file,
        "model.dtype": dtype,
        "model.weights": weights,
        "model.kv": kv,
        "model.weights_budget": weights_budget,
        "cache.pool": pool,
        "model.max_model_len": max_model_len,
        "scheduler.max_sequences": max_sequences,
        "tiers.host": host_tier,
        "tiers.disk": disk_tier,
        "tiers.remote": remote_tier,
    }
    if sagemaker:
        flags |= SAGEMAKER
        model = model or SAGEMAKER_MODEL
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen = options.make_config(model=model, file=config, settings=settings, flags=flags)
    if dry_run:
        _dry_run(chosen, sagemaker=sagemaker, as_json=as_json)
    else:
        _serve(chosen, sagemaker=sagemaker, explain=explain, as_json=as_json, record=record)


def _dry_run(config: Config, *, sagemaker: bool, as_json: bool) -> None:
    from stepwell.engine.build import resolve_only
    from stepwell.server.lifecycle import check_settings

    check_settings(config, sagemaker=sagemaker)
    print_decisions(resolve_only(config), as_json=as_json)


def _serve(
    config: Config, *, sagemaker: bool, explain: bool, as_json: bool, record: Path | None
) -> None:
    """Refuse early what needs no model: keys, exposure, port, trace file. Then load and serve."""
    from stepwell.cli.logs import set_up_logging
    from stepwell.server.lifecycle import Listener, check_settings, run_server

    set_up_logging()
    keys = check_settings(config, sagemaker=sagemaker)
    listener = Listener(config.server.host, config.server.port)
    recorder = None
    if record is not None:
        from stepwell.server.recorder import Recorder

        recorder = Recorder(record, block_tokens=config.cache.block_size)
    from stepwell.model.quick_imports import import_transformers

    import_transformers()
    from stepwell.engine.loop import build_engine_loop
    from stepwell.hardware.account import proportional_bytes

    engine = build_engine_loop(config, progress=note)
    engine.touch_pool()
    if explain:
        account = engine.account()
        lines = account.decisions(proportional=proportional_bytes()) if account else ()
        print_decisions([*engine.decisions, *lines], as_json=as_json)
    run_server(
        engine,
        config=config,
        keys=keys,
        listener=listener,
        recorder=recorder,
        on_ready=lambda url: print(f"Stepwell is ready: {url}", flush=True),
    )
