"""Plant look-up heads into the second layer of a run: `python -m house.sql.plant`.

Look-up needs one layer to say at each place what stood one and two places before (the house model
starts with such heads) and the next to find, by that, the place that has the answer. Gradient
descent did not find the second step within 4 M tokens, so it is written into the weights: readouts
of names are fitted by ridge regression on the run's own activations, and a head compares them.

Head 2: what stood before me is what stood two before you. Head 0: what I am stood before you. Both
copy the name they find. Training is free to change all of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from house.loop import CHECKPOINT, RUNS
from house.model import Attention, Block, HouseModel
from house.sql.export import shape
from house.sql.rows import Maker
from house.sql.tokenizer import make_tokenizer
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS

ROWS, LENGTH = 40, 256
SHARPNESS, GAIN, RIDGE = 32.0, 2.0, 1e-2


@torch.no_grad()
def plant(model: HouseModel) -> None:
    """Change layer 1 in place."""
    maker = Maker(make_tokenizer(), 11)
    ids = torch.tensor([maker.drill(LENGTH).ids for _ in range(ROWS)])
    first, second = model.layers[0], model.layers[1]
    assert isinstance(first, Block) and isinstance(second, Block)
    x = torch.nn.functional.embedding(ids, model.embed_tokens.weight)
    x = second.input_layernorm(first(x, model.cos[:LENGTH], model.sin[:LENGTH]))
    vocabulary = make_tokenizer().get_vocab()
    words = torch.tensor([vocabulary[word] for word in (*TABLES, *WORDS)])
    names = torch.zeros_like(model.embed_tokens.weight)  # nothing but names is looked for
    names[words] = model.embed_tokens.weight[words] - model.embed_tokens.weight[words].mean(0)
    basis = torch.linalg.svd(names, full_matrices=False)[2]
    code = torch.nn.functional.normalize(names @ basis[:32].T, dim=1)
    seen, attention = x[:, 2:].flatten(0, 1), second.self_attn
    own, one, two = (
        readout(seen, code[ids[:, 2 - back : LENGTH - back]].flatten(0, 1)) for back in (0, 1, 2)
    )
    copied = readout(seen, (names @ basis[:64].T)[ids[:, 2:]].flatten(0, 1))
    set_head(attention, head=2, query=one, key=two, value=copied, out=basis[:64].T)
    set_head(attention, head=0, query=own, key=one, value=copied, out=basis[:64].T)


def readout(seen: Tensor, wanted: Tensor) -> Tensor:
    """[of wanted, of seen]: least squares with a little ridge."""
    square = seen.T @ seen / len(seen)
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square, seen.T @ wanted / len(seen)).T


def set_head(
    attention: Attention, *, head: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor
) -> None:
    """Compare in the 16 slowest of the 32 rotary pairs, which hardly turn within a context."""
    size, half = 64, 32
    slow = torch.tensor([*range(16, half), *range(half + 16, size)])
    scale = (SHARPNESS * size**0.5) ** 0.5
    pair = head // 2 * size
    attention.q_proj.weight[head * size : (head + 1) * size] = 0
    attention.k_proj.weight[pair : pair + size] = 0
    attention.q_proj.weight[head * size + slow] = scale * query
    attention.k_proj.weight[pair + slow] = scale * key
    attention.v_proj.weight[pair : pair + size] = value
    attention.o_proj.weight[:, head * size : (head + 1) * size] = GAIN * out


def main() -> None:
    """Change a run's checkpoint; its optimizers start anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=RUNS / "house-sql" / CHECKPOINT)
    path = parser.parse_args().checkpoint
    state = torch.load(path, weights_only=False)
    model = HouseModel(shape())
    model.load_state_dict(state["model"])
    plant(model)
    torch.save(state | {"model": model.state_dict(), "optimizers": None}, path)


if __name__ == "__main__":
    main()
