"""`stepwell bench attention`: decoding over a long context, in the pool's formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.bench_result import result_document, words, write_document
from stepwell.cli.output import moving_line, print_table


def attention(
    kv: Annotated[str, typer.Option("--kv", help="model, int8, int4.")] = "model,int8,int4",
    heads: Annotated[int, typer.Option(min=1, help="KV heads.")] = 2,
    group: Annotated[int, typer.Option(min=1, help="Query heads a KV head.")] = 7,
    dim: Annotated[int, typer.Option(min=32, help="Numbers of a head.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 24,
    context: Annotated[int, typer.Option(min=16, help="Tokens.")] = 32768,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each format.")] = 15,
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no table.")] = False,
) -> None:
    """Measure attention of one decoded token over a long context, as a share of read bandwidth.

    Example: [bold]stepwell bench attention --context 32768 --kv model,int8[/bold]

    The default shape is that of Qwen2.5-0.5B.
    """
    from stepwell.evaluate.attention_bench import AttentionOptions, run_attention_bench
    from stepwell.evaluate.precision_settings import make_kvs

    options = AttentionOptions(
        kv_heads=heads, group=group, dim=dim, layers=layers, context=context, rounds=rounds,
        formats=make_kvs(words(kv), hows=()),
    )  # fmt: skip
    with moving_line() as say:
        result = run_attention_bench(options, say=say)
    document = result_document(result, model="shape", quick=False)
    write_document(document, out)
    if as_json:
        print(json.dumps(document))
        return
    rows = [
        (name, f"{f['bytes_vs_first']:.1%}", f"{f['ms_per_token']:.2f}", f"{f['gbps']:.1f}",
         f"{f['share_of_read']:.0%}")
        for name, f in result["formats"].items()
    ]  # fmt: skip
    title = f"{context} tokens, read bandwidth {result['read_gbps']} GB/s"
    print_table(title, ("kv", "bytes", "ms a token", "GB/s", "of bandwidth"), rows)
