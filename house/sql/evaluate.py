"""What the model that reads gets right, by what a question needs: `python -m house.sql.evaluate`.

Questions are about held-out worlds, whose pairs of names and answers no training world has. An
answer counts if it is the worked query token by token: stricter than equal rows.
"""

from __future__ import annotations

import argparse
import enum
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from house.loop import CHECKPOINT
from house.model import HouseModel
from house.sql.export import shape
from house.sql.rows import OPENING
from house.sql.tokenizer import FOLDER, make_tokenizer
from house.tokenizer import ASSISTANT, END
from stepwell.evaluate.knowledge_drawn_ask import every_query, sql, traps, wordings
from stepwell.evaluate.knowledge_drawn_context import SEPARATOR, context_of
from stepwell.evaluate.knowledge_drawn_course import Asked, Course, make_course
from stepwell.knowledge.payload import Payload, Template

ROWS = 16  # computed at once
WORLDS, TRAPPED, UNTOUCHED = 12, 36, 16


class Told(enum.Enum):
    """What stands in front of a question."""

    NOTHING = "nothing"
    NEEDED = "needed"
    ALL = "all"
    EXAMPLE = "example"


@dataclass(frozen=True, slots=True)
class Item:
    """`needs`: names of the traps. `prompt`, `answer`: tokens."""

    needs: str
    prompt: list[int]
    answer: list[int]


def items(course: Course, told: Told) -> Iterator[Item]:
    """Test questions of the course, and the answers that what is told leads to. `example`: a
    question of the same shape with its query, and where one needs a code, of the same value."""
    tokenizer = make_tokenizer()
    draw = random.Random(f"evaluate {told.value}")
    for asked in course.test:
        world = course.worlds[asked.world]
        needed = traps(asked.query, world)
        known = () if told is Told.NOTHING else needed
        payloads = _payloads(course, asked, told, draw)
        context = context_of(payloads, world.area) + SEPARATOR if payloads else ""
        prompt = f"{OPENING}{context}{asked.text}{END}\n{ASSISTANT}\n"
        answer = sql(asked.query, known, worked=True) + END
        yield Item(
            "+".join(sorted(fact.trap.value for fact in needed)) or "untouched",
            tokenizer.encode(prompt, add_special_tokens=False).ids,
            tokenizer.encode(answer, add_special_tokens=False).ids,
        )


def _payloads(course: Course, asked: Asked, told: Told, draw: random.Random) -> list[Payload]:
    world = course.worlds[asked.world]
    match told:
        case Told.NOTHING:
            return []
        case Told.NEEDED:
            return [fact.payload for fact in traps(asked.query, world)]
        case Told.ALL:
            return [fact.payload for fact in world.facts]
        case Told.EXAMPLE:
            return [_example(course, asked, draw)]


def _example(course: Course, asked: Asked, draw: random.Random) -> Payload:
    """Asked in other words."""
    world = course.worlds[asked.world]
    coded = any(fact.trap.value == "code" for fact in traps(asked.query, world))
    like = [
        query
        for query in every_query(world)
        if query.shape == asked.query.shape and (query.value == asked.query.value) == coded
    ]
    query = draw.choice(like)
    text = draw.choice([text for text in wordings(query) if text != asked.text])
    return Template(question=text, sql=sql(query, traps(query, world), worked=True))


@torch.no_grad()
def right_by_needs(model: HouseModel, asked: Sequence[Item]) -> dict[str, list[int]]:
    """What questions need -> right answers, questions; `all traps`: of those that need any."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    ordered = sorted(asked, key=lambda item: len(item.prompt) + len(item.answer))
    for start in range(0, len(ordered), ROWS):
        for item, right in _answered(model, ordered[start : start + ROWS]):
            for name in {item.needs, "all traps" if item.needs != "untouched" else item.needs}:
                found[name][0] += right
                found[name][1] += 1
    return dict(sorted(found.items()))


def _answered(model: HouseModel, some: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Greedy writing brings the answer exactly if it is the likeliest after each of its tokens."""
    texts = [item.prompt + item.answer for item in some]
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    with torch.autocast("cpu", torch.bfloat16):
        likeliest = model.logits(model.hidden(ids)).argmax(-1)
    for item, row in zip(some, likeliest.tolist(), strict=True):
        first = len(item.prompt) - 1
        yield item, row[first : first + len(item.answer)] == item.answer


def load(path: Path) -> HouseModel:
    """Of an exported folder, or of a run's."""
    if (path / CHECKPOINT).exists():
        weights: Mapping[str, torch.Tensor] = torch.load(path / CHECKPOINT, weights_only=False)[
            "model"
        ]
    else:
        stored = load_file(path / "model.safetensors")
        weights = {name.removeprefix("model."): weight for name, weight in stored.items()}
    model = HouseModel(shape())
    model.load_state_dict(weights)
    return model


def main() -> None:
    """One line of JSON for each thing that is told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER, help="exported, or a run's folder")
    parser.add_argument("--tables", type=int, default=1, help="of a world")
    parser.add_argument("--seed", type=int, default=777)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.model)
    course = make_course(
        seed=arguments.seed, worlds=WORLDS, requests=0, trapped=TRAPPED, untouched=UNTOUCHED,
        tables=arguments.tables,
    )  # fmt: skip
    for told in Told:
        right = right_by_needs(model, list(items(course, told)))
        print(json.dumps({"told": told.value, "right": right}))


if __name__ == "__main__":
    main()
