"""The tables of `stepwell plan`, from its document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.base.units import format_bytes, format_seconds
from stepwell.cli.output import print_json, print_table
from stepwell.hardware.devices import DEVICES, PRICES_OF, THIS_MACHINE
from stepwell.plan import catalogue
from stepwell.plan.families import known_types
from stepwell.plan.workload import format_tokens

Document = Mapping[str, Any]


def show_plan(document: Document) -> None:
    """All of it, shortest last: the verdict is what stays on the screen."""
    model, device = document["model"], document["device"]
    active = model["active_parameters"]
    some = f", {active / 1e9:.2f} B active" if active != model["parameters"] else ""
    print(f"{model['name']}: {model['parameters'] / 1e9:.2f} B parameters{some}; {model['source']}")
    for text in model["notes"]:
        print(f"  note: {text}")
    print(f"{device['count']} x {device['title']}; {device['source']}\n")
    _weights(document)
    _kv(document)
    _contexts(document)
    _memory(document)
    _roofline(document)
    _steps(document)
    _deployment(document)


def _weights(document: Document) -> None:
    weights = document["weights"]
    parts = [
        (name, _both(size), f"{size / document['weights_bytes']:.1%}")
        for name, size in weights["by_component"].items()
    ]
    parts.append(("all", _both(document["weights_bytes"]), "100.0%"))
    print_table(f"Weights in {weights['precision']}", ("part", "bytes", "share"), parts)
    if weights["stored_bytes"] not in (None, document["weights_bytes"]):
        print(f"The checkpoint's files hold {_both(weights['stored_bytes'])}.\n")
    sizes = weights["by_precision"].items()
    print_table("Weights by precision", [n for n, _ in sizes], [[_gb(size) for _, size in sizes]])


def _kv(document: Document) -> None:
    rows = [
        (
            row["layers"],
            row["kind"],
            f"{row['window']:,}" if row["window"] else "",
            row["kv_heads"] or "",
            f"{row['bytes_per_token']:,}",
            format_bytes(row["state_bytes"]) if row["state_bytes"] else "",
        )
        for row in document["kv"]["by_layer"]
    ]
    title = (
        f"KV: {document['kv_bytes_per_token']:,} bytes a token"
        f" + {format_bytes(document['kv']['fixed_bytes'])} a session"
    )
    columns = ("layers", "kind", "window", "KV heads", "bytes a token", "state")
    print_table(title, columns, rows)


def _contexts(document: Document) -> None:
    engines = document["contexts_in_engines"]
    shown = {name: sizes for name, sizes in engines.items() if "refused" not in sizes}
    most = document["model"]["max_positions"]
    rows = [
        [
            format_tokens(int(length)) + (" *" if most and int(length) > most else ""),
            format_bytes(size),
            *[format_bytes(sizes[length]) for sizes in shown.values()],
        ]
        for length, size in document["contexts"].items()
    ]
    beyond = f" (*: beyond the model's {most:,} positions)" if most else ""
    columns = ("tokens", "ideal", *[f"in {name}" for name in shown])
    print_table(f"KV of one sequence{beyond}", columns, rows)
    for name, sizes in engines.items():
        if "refused" in sizes:
            print(f"{name}: {sizes['refused']}")


def _memory(document: Document) -> None:
    memory, sessions = document["memory"], document["sessions"]
    rows = [
        ("all", _both(memory["total_bytes"])),
        ("reserve", _both(memory["reserve_bytes"])),
        ("others", _both(memory["used_by_others_bytes"])),
        ("weights", _both(memory["weights_in_engine_bytes"])),
        ("free for KV", _both(memory["free_bytes"])),
    ]
    if memory["lacking_bytes"]:
        rows.append(("lacking", _both(memory["lacking_bytes"])))
    process = memory["stepwell_process"]
    if process is not None:
        beside = process["total"] - process["kv_pool"]
        rows.append(
            ("stepwell serve", f"{_both(beside)} and a pool of {_both(process['kv_pool'])}")
        )
    print_table("Memory", ("", "bytes"), rows)
    tiers = [f"{name} ({format_bytes(sessions[f'{name}_bytes'])})" for name in ("host", "disk")]
    found = [
        [format_tokens(int(length))]
        + ["all" if row[name] is None else f"{row[name]:,}" for name in ("device", "host", "disk")]
        for length, row in sessions["by_context"].items()
    ]
    columns = ("tokens each", "active, on the device", *[f"idle, {tier}" for tier in tiers])
    print_table(f"Sessions ({sessions['engine']}'s blocks)", columns, found)


def _roofline(document: Document) -> None:
    line = document["roofline"]
    rows = [
        (
            row["batch"],
            f"{row['flop_per_byte']:.1f}",
            row["bound_by"],
            f"{row['tokens_per_s']['bound']:,.0f}",
            _range(row["tokens_per_s"], "{:,.0f}"),
            format_seconds(row["tpot_s"]["likely"]),
        )
        for row in line["by_batch"]
    ]
    title = (
        f"Decoding, {line['context']:,} tokens each; ridge "
        f"{document['ridge_flop_per_byte']:.0f} FLOP/byte"
    )
    columns = ("batch", "FLOP/byte", "bound by", "tokens/s at most", "low, likely, high", "a token")
    print_table(title, columns, rows)
    print(
        f"A prompt of {line['context']:,} tokens: {line['prefill_flop_per_byte']:,.0f} FLOP/byte, "
        f"first token after {format_seconds(line['ttft_bound_s'])} at least, "
        f"{format_seconds(line['ttft_likely_s'])} likely."
    )
    facts = [f"memory is full at {line['memory_full_batch']:,}"]
    if line["kv_bound_batch"]:
        facts.append(f"KV outweighs the weights from {line['kv_bound_batch']:,}")
    computing = line["compute_bound_batch"]
    facts.append(f"arithmetic limits from {computing:,}" if computing else "memory limits always")
    print(f"Batch: {', '.join(facts)}.\n")


def _steps(document: Document) -> None:
    rows = [
        (
            "+" if step["taken"] else "-",
            step["lever"],
            step["choice"],
            step["gain"],
            step["cost"],
            step["risk"],
        )
        for step in document["recommendation"]
    ]
    if rows:
        work = document["workload"]
        many = f", {work['users']:,} users" if work["users"] else ""
        title = f"Levers for {work['name']}, {format_tokens(work['context'])} tokens{many}"
        print_table(title, ("", "lever", "choice", "gain", "cost", "risk"), rows)


def _deployment(document: Document) -> None:
    found = document["deployment"]
    for name, figures in found.get("estimates", {}).items():
        print(
            f"{name:>7}: {figures['users_per_group']:,.0f} users a group, "
            f"{figures['output_tokens_per_s_per_group']:,.0f} output tokens/s, first token "
            f"{format_seconds(figures['ttft_s'])}, then {format_seconds(figures['tpot_s'])} each"
            + _dollars(figures)
        )
    print(f"\n{found['verdict']}.")
    for text in found.get("would_fit", ()):
        print(f"  would fit: {text}")
    if "command" in found:
        print(f"\n{found['command']}")
        if found["command_note"]:
            print(f"  # {found['command_note']}")
    if found.get("stepwell_toml"):
        print(f"\n# stepwell.toml\n{found['stepwell_toml']}")


def _dollars(figures: Document) -> str:
    if not figures["dollars_per_million_blended"]:
        return ""
    return (
        f"; ${figures['dollars_per_million_output']:.3f} a million out, "
        f"${figures['dollars_per_million_input']:.4f} in"
    )


def show_list(*, as_json: bool) -> None:
    """Models and devices that are known by name."""
    models = catalogue.models()
    if as_json:
        print_json(
            {
                "models": {known.name: known.source for known in models.values()},
                "model_types": list(known_types()),
                "devices": {each.name: each.title for each in DEVICES.values()},
            }
        )
        return
    rows = [(known.name, known.config["model_type"], known.source) for known in models.values()]
    print_table(f"{len(rows)} models", ("name", "kind", "source"), rows)
    found = [
        (
            each.name,
            format_bytes(each.memory_bytes),
            f"{each.bandwidth / 1e9:,.0f} GB/s",
            f"{each.flops['bf16'] / 1e12:,.0f} TFLOP/s",
            f"{each.ridge:.0f}",
            f"${each.price_per_hour:.2f}",
            each.source,
        )
        for each in DEVICES.values()
    ]
    found.append((THIS_MACHINE, "this machine, measured", "", "", "", "", ""))
    columns = ("device", "memory", "bandwidth", "16 bits", "ridge", "an hour", "source")
    print_table(f"Devices (prices: assumptions of {PRICES_OF})", columns, found)
    print(f"Kinds of models read from a config.json: {', '.join(known_types())}.")


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def _both(size: float) -> str:
    return f"{size:,} ({_gb(size)}, {format_bytes(size)})"


def _range(figures: Document, form: str) -> str:
    return ", ".join(form.format(figures[name]) for name in ("low", "likely", "high"))
