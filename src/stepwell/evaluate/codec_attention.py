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
from stepwell.codec.kvtc.statistics import SINK_TOKENS
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
    loaded: LoadedModel,
    recordings: Sequence[Recording],
    *,
    keys: RowLayout,
    values: RowLayout,
    floor: float,
) -> tuple[Metric, Metric, float]:
    """(query metric of keys, output metric of values, weight of values against keys) for every
    key-value head in row order. Each layer's metric is scaled by experiment: what noise on its
    keys (or values) does to its output, relative to the output's energy."""
    weights = output_weights(loaded)
    moments = (_query_moments(loaded, recordings, keys), _output_moments(loaded, weights))
    metrics, energies = [], []
    for side, (layout, found) in enumerate(zip((keys, values), moments, strict=True)):
        harm = _harm_of_noise(loaded, recordings[0], side, keys, values, weights)
        scaled, at = [], 0
        for part, layer_harm in zip(layout.parts, harm, strict=True):
            heads = found[at : at + part.heads]
            trace = sum(float(m.diagonal().sum()) for m in heads)
            scaled += [m * (layer_harm / trace) for m in heads]
            at += part.heads
        metric = metric_of(scaled, floor=floor)
        unit = sum(float(m.diagonal().sum()) for m in scaled) / layout.width
        rows = recordings[0].values if side else recordings[0].keys
        weighted = metric.weigh((rows - rows.mean(0))[SINK_TOKENS:])
        energies.append(unit * float(weighted.square().sum()))
        metrics.append(metric)
    return metrics[0], metrics[1], (energies[1] / energies[0]) ** 0.5


def _query_moments(
    loaded: LoadedModel, recordings: Sequence[Recording], keys: RowLayout
) -> list[Tensor]:
    found, distances = [], torch.tensor(DISTANCES)
    for number, (part, shape) in enumerate(zip(keys.parts, loaded.shapes.values(), strict=True)):
        group = shape.q_heads // shape.kv_heads
        for head in range(shape.kv_heads):
            total = torch.zeros(part.dim, part.dim, dtype=torch.float64)
            for recording in recordings:
                queries = recording.queries[number][:, head * group : (head + 1) * group].float()
                if part.rotary is not None:
                    queries = part.rotary.undo(queries, positions=recording.positions)
                total += query_moment(queries, rotary=part.rotary, distances=distances)
            found.append(total / len(recordings))
    return found


def _output_moments(loaded: LoadedModel, weights: Sequence[Tensor]) -> list[Tensor]:
    found = []
    for shape, weight in zip(loaded.shapes.values(), weights, strict=True):
        group = shape.q_heads // shape.kv_heads
        heads = weight.view(-1, shape.kv_heads, group, shape.value_dim)
        for head in range(shape.kv_heads):
            found.append(output_moment(heads[:, head].transpose(0, 1)))
    return found


def _harm_of_noise(
    loaded: LoadedModel,
    recording: Recording,
    side: int,
    keys: RowLayout,
    values: RowLayout,
    weights: Sequence[Tensor],
) -> list[float]:
    """By layer: share of the output's energy that becomes error for unit noise on every key
    (side 0) or value (side 1), measured with noise so small that the answer is linear in it."""
    rows, split = recording.rows.clone(), keys.width
    part = rows[SINK_TOKENS:, :split] if side == 0 else rows[SINK_TOKENS:, split:]
    amplitude = 0.1 * float((part - part.mean(0)).square().mean()) ** 0.5
    noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    part += amplitude * noise
    errors = attention_error(loaded, recording, rows, keys=keys, values=values, weights=weights)
    return [error / amplitude**2 for error in errors]


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
