"""Insert a layer that starts with a head for joins: `python -m house.sql.plant_join`.

A join's answer stands before the name that is asked for (`rivers.stone = towns.id`, asked for
towns), so the heads of `plant` cannot find it. The new layer's head 0 compares the name just
written with names that follow ` = ` and copies what stood two before them. The rest of the layer
adds nothing at first. Training is free to change all of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from house.loop import CHECKPOINT, RUNS
from house.model import Block, HouseModel
from house.sql.export import shape
from house.sql.plant import readout, set_head
from house.sql.rows import Maker, make_batch
from house.sql.tokenizer import make_tokenizer
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS

LAYER = 2
ROWS, LENGTH = 48, 384
GATE = 0.7  # of a score that equal names get, what a name after " = " gets by that alone
MIX = {"drill": 0.5, "silent": 0.1, "tables": 2, "facts": 0.7, "templates": 0, "foreign": 1,
       "words": 1000}  # fmt: skip


def with_layer(weights: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model with one layer more: `fresh` has the new one at `LAYER`."""
    moved = {}
    for name, weight in weights.items():
        head, _, rest = name.partition("layers.")
        number, _, tail = rest.partition(".")
        later = rest and int(number) >= LAYER
        moved[f"{head}layers.{int(number) + 1}.{tail}" if later else name] = weight
    return {name: moved.get(name, weight) for name, weight in fresh.items()}


@torch.no_grad()
def plant(model: HouseModel, *, rows: int = ROWS) -> None:
    """Write the head into the layer at `LAYER`, which must add nothing yet. `rows`: to fit on."""
    tokenizer = make_tokenizer()
    maker = Maker(tokenizer, 12)
    batch = make_batch([maker.row(LENGTH, MIX) for _ in range(rows)])
    layer = model.layers[LAYER]
    assert isinstance(layer, Block)
    for inert in (layer.self_attn.o_proj, layer.mlp.down_proj):
        torch.nn.init.zeros_(inert.weight)
    x = _before(model, batch.ids, batch.positions, batch.mask)
    vocabulary = tokenizer.get_vocab()
    tables = torch.tensor([vocabulary[word] for word in TABLES])
    words = torch.tensor([vocabulary[word] for word in WORDS])
    embedded = model.embed_tokens.weight
    code = _code(embedded, tables, 31)
    copied = torch.zeros_like(embedded)
    copied[words] = embedded[words] - embedded[words].mean(0)
    basis = torch.linalg.svd(copied, full_matrices=False)[2][:64]
    ids, seen = batch.ids, x[:, 2:].flatten(0, 1)
    own, one, two = (ids[:, 2 - back : LENGTH - back].flatten() for back in (0, 1, 2))
    follows = (torch.isin(own, tables) & (one == vocabulary["Ġ=Ġ"])).float()[:, None]
    gate = torch.full_like(follows, GATE)
    set_head(
        layer.self_attn,
        head=0,
        query=_readout(seen, torch.cat((code[one], gate), 1), torch.isin(one, tables)),
        key=_readout(seen, torch.cat((code[own], GATE * follows), 1), torch.isin(own, tables)),
        value=_readout(seen, (copied @ basis.T)[two], torch.isin(two, words)),
        out=basis.T,
    )


def _readout(seen: Tensor, wanted: Tensor, named: Tensor) -> Tensor:
    """As `plant.readout`, of names as often as of all else, and at the size that is wanted: names
    are rare, and least squares would rather say nothing."""
    balance = torch.where(named, 0.5 / named.sum(), 0.5 / (~named).sum())[:, None].sqrt()
    found = readout(seen * balance, wanted * balance)
    size = (seen[named] @ found.T).norm(dim=1).mean()
    return found * wanted[named].norm(dim=1).mean() / size


def _code(embedded: Tensor, names: Tensor, size: int) -> Tensor:
    """[vocabulary, size]: unit vectors for names, zero for all else."""
    code = torch.zeros_like(embedded)
    code[names] = embedded[names] - embedded[names].mean(0)
    basis = torch.linalg.svd(code, full_matrices=False)[2][:size]
    return torch.nn.functional.normalize(code @ basis.T, dim=1)


def _before(model: HouseModel, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """What the layer at `LAYER` would read, normalised."""
    x = torch.nn.functional.embedding(ids, model.embed_tokens.weight)
    added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    cos, sin = model.cos[positions[:, None]], model.sin[positions[:, None]]
    for layer in model.layers[:LAYER]:
        x = layer(x, cos, sin, added)
    layer = model.layers[LAYER]
    assert isinstance(layer, Block)
    return layer.input_layernorm(x)


def main() -> None:
    """Change a run's checkpoint; its optimizers start anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=RUNS / "house-sql" / CHECKPOINT)
    path = parser.parse_args().checkpoint
    state: dict[str, Any] = torch.load(path, weights_only=False)
    torch.manual_seed(12)
    model = HouseModel(shape())
    model.load_state_dict(with_layer(state["model"], model.state_dict()))
    plant(model)
    torch.save(state | {"model": model.state_dict(), "optimizers": None}, path)


if __name__ == "__main__":
    main()
