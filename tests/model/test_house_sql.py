"""Training rows of the model that reads: what is asked is what a server would ask, targets are the
answers alone, and branches do not see each other."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("sqlglot")

from house.model import HouseModel, Shape  # noqa: E402
from house.sql.evaluate import Told, items, right_by_needs  # noqa: E402
from house.sql.plant_join import plant, with_layer  # noqa: E402
from house.sql.rows import Maker, Row, make_batch  # noqa: E402
from house.sql.tokenizer import make_tokenizer  # noqa: E402

from stepwell.evaluate.knowledge_drawn_ask import (  # noqa: E402
    every_query,
    traps,
    true_sql,
    without_comments,
    wordings,
)
from stepwell.evaluate.knowledge_drawn_context import SEPARATOR  # noqa: E402
from stepwell.evaluate.knowledge_drawn_course import make_course  # noqa: E402
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS  # noqa: E402
from stepwell.evaluate.knowledge_drawn_world import Split, draw_world  # noqa: E402

MIX = {
    "silent": 0.1,
    "tables": 2,
    "facts": 0.6,
    "templates": 2,
    "foreign": 1,
    "words": 351,
    "drill": 0.0,
}
LENGTH = 576


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    maker = Maker(make_tokenizer(), 5)
    return [maker.row(LENGTH, MIX) for _ in range(6)]


def test_the_tokenizer_loses_nothing_and_keeps_names_whole() -> None:
    tokenizer = make_tokenizer()
    world = draw_world("1", Split.TRAINING)
    for query in list(every_query(world))[::7]:
        for text in (true_sql(query, world), *wordings(query)):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text
            assert len(ids) <= 24
    for name in (*TABLES, *WORDS):
        for text in (name, f" {name}", f"'{name}'", f".{name}"):
            assert name in tokenizer.encode(text, add_special_tokens=False).tokens
    for text in ("naïve “x” SELECT a1b2 FROM t WHERE x = 17 AND y = 0;\n\n\tend", "= 10", " = 100"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text


def test_rows_are_the_same_for_a_seed(rows: list[Row]) -> None:
    again = Maker(make_tokenizer(), 5)
    assert [again.row(LENGTH, MIX).ids for _ in rows] == [row.ids for row in rows]


def test_a_branch_is_a_whole_request(rows: list[Row]) -> None:
    tokenizer = make_tokenizer()
    for row in rows:
        trunk = [i for i, branch in zip(row.ids, row.branch, strict=True) if branch == 0]
        for number in range(1, len(row.kinds) + 1):
            mine = [i for i, place in enumerate(row.branch) if place == number]
            text = tokenizer.decode(trunk + [row.ids[i] for i in mine], skip_special_tokens=False)
            opening, _, asked = text.partition("<|user|>\n")
            assert opening == "<|bos|><|system|>\nAnswer with one SQL query.<|end|>\n"
            words, _, answer = asked.partition("<|end|>\n<|assistant|>\n")
            assert words.startswith("Reference about") == (f"\n{SEPARATOR}" in words)
            assert answer.startswith("SELECT ") and answer.endswith("<|end|>")
            targets = [row.ids[i] for i in mine if row.target[i]]
            assert tokenizer.decode(targets, skip_special_tokens=False) == answer
            assert [row.positions[i] for i in mine] == list(
                range(len(trunk), len(trunk) + len(mine))
            )


def test_a_branch_is_computed_as_if_alone(rows: list[Row]) -> None:
    torch.manual_seed(random.Random(3).getrandbits(20))
    model = HouseModel(Shape(vocab=make_tokenizer().get_vocab_size(), layers=2, context=1024))
    batch, row = make_batch(rows[:2]), rows[1]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together = model.hidden(batch.ids, batch.positions, batch.mask)[1]
        for number in (1, len(row.kinds)):
            kept = [i for i, branch in enumerate(row.branch) if branch in (0, number)]
            alone = model.hidden(torch.tensor([[row.ids[i] for i in kept]]))[0]
            error = (together[kept] - alone).abs().max() / alone.abs().max()
            assert error < 0.05  # bfloat16


def test_targets_are_the_tokens_after(rows: list[Row]) -> None:
    batch = make_batch(rows)
    flat = batch.ids.flatten()
    assert torch.equal(flat[batch.at + 1], batch.targets)
    assert int(batch.answer.max()) + 1 == len(batch.kinds) == sum(len(r.kinds) for r in rows)


def test_what_is_told_decides_what_is_asked_for() -> None:
    course = make_course(seed=9, worlds=3, requests=0, trapped=8, untouched=4, tables=1)
    decode = make_tokenizer().decode
    by_told = {told: list(items(course, told)) for told in Told}
    for told, asked in by_told.items():
        assert len(asked) == len(course.test) > 24
        for item, one in zip(asked, course.test, strict=True):
            assert one.text in decode(item.prompt)
            answer = without_comments(decode(item.answer))
            assert answer == (one.naive if told is Told.NOTHING else one.sql)
            if told is Told.NEEDED:
                facts = traps(one.query, course.worlds[one.world])
                assert decode(item.prompt).count("[") == len(facts)
            if told is Told.EXAMPLE:
                assert decode(item.prompt).count("| sql SELECT ") == 1
    model = HouseModel(Shape(vocab=make_tokenizer().get_vocab_size(), layers=1, inner=8))
    right = right_by_needs(model, by_told[Told.ALL])
    assert right["all traps"] == [0, 24] and right["untouched"] == [0, len(course.test) - 24]


def test_a_layer_more_changes_nothing_but_joins() -> None:
    torch.manual_seed(3)
    vocab = make_tokenizer().get_vocab_size()
    small, large = (HouseModel(Shape(vocab=vocab, layers=n, inner=64)) for n in (3, 4))
    large.load_state_dict(with_layer(small.state_dict(), large.state_dict()))
    plant(large, rows=4)
    for name, weight in small.state_dict().items():
        same = name.replace("layers.2.", "layers.3.")
        assert torch.equal(weight, large.state_dict()[same])
    head = large.layers[2].self_attn
    assert bool(head.o_proj.weight[:, :64].any()) and not head.o_proj.weight[:, 64:].any()
    assert not large.layers[2].mlp.down_proj.weight.any()
