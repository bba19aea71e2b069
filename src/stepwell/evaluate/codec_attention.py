"""What attention makes of a restored cache: its error after the output projection, layer by layer.

Beside it, the metrics by which `kvtc` can weigh errors (codec/kvtc/metric.py), from the queries and
the output projections of a loaded model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.metric import Metric, metric_of, output_moment, query_moment
from stepwell.model.load import LoadedModel
from stepwell.model.record import Recording

DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def output_weights(loaded: LoadedModel) -> list[Tensor]:
    """Each layer's output projection, [hidden, q_heads * dim] float32."""
    found = []
    for module, shape in loaded.shapes.items():
        projection = module.o_proj
        assert isinstance(projection, nn.Module)
        parameter = next(loaded.model.parameters())
        width = shape.q_heads * shape.value_dim
        with torch.inference_mode():
            unit = torch.eye(width, dtype=parameter.dtype, device=parameter.device)
            found.append(projection(unit).T.float().cpu())
    return found


def make_metrics(
    loaded: LoadedModel, recordings: Sequence[Recording], keys: RowLayout, *, floor: float
) -> tuple[Metric, Metric]:
    """(query metric of keys, output metric of values) for every key-value head in row order."""
    distances = torch.tensor(DISTANCES)
    key_moments, value_moments = [], []
    shapes = list(loaded.shapes.values())
    for number, (part, shape, weight) in enumerate(
        zip(keys.parts, shapes, output_weights(loaded), strict=True)
    ):
        group = shape.q_heads // shape.kv_heads
        heads = weight.view(-1, shape.kv_heads, group, shape.value_dim)
        for head in range(shape.kv_heads):
            total = torch.zeros(part.dim, part.dim, dtype=torch.float64)
            for recording in recordings:
                queries = recording.queries[number].float()
                if part.rotary is not None:
                    queries = part.rotary.undo(queries, positions=recording.positions)
                mine = queries[:, head * group : (head + 1) * group]
                total += query_moment(mine, rotary=part.rotary, distances=distances)
            key_moments.append(total / len(recordings))
            value_moments.append(output_moment(heads[:, head].transpose(0, 1)))
    return metric_of(key_moments, floor=floor), metric_of(value_moments, floor=floor)


def attention_error(
    loaded: LoadedModel,
    recording: Recording,
    restored: Tensor,
    *,
    keys: RowLayout,
    values: RowLayout,
    weights: Sequence[Tensor],
) -> list[float]:
    """By layer: squared error of the projected attention output over its energy, where rows
    `restored` [tokens, p] stand in for the recorded ones; the same queries on both sides."""
    whole = (recording.rows, restored)
    found = []
    sides = [
        (
            keys.scatter(rows[:, : keys.width], positions=recording.positions),
            values.scatter(rows[:, keys.width :], positions=recording.positions),
        )
        for rows in whole
    ]
    for number, (shape, weight) in enumerate(zip(loaded.shapes.values(), weights, strict=True)):
        query = recording.queries[number].float().transpose(0, 1)
        outputs = []
        for key_layers, value_layers in sides:
            group = shape.q_heads // shape.kv_heads
            key = key_layers[number].repeat_interleave(group, 0)
            value = value_layers[number].repeat_interleave(group, 0)
            out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            outputs.append(out.transpose(0, 1).flatten(1) @ weight.T)
        error = (outputs[1] - outputs[0]).square().sum()
        found.append(float(error / outputs[0].square().sum()))
    return found
