"""`stepwell evaluate precision` and `sensitivity`: same weights change nothing, bad ones show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from stepwell.base.errors import ConfigError  # noqa: E402
from stepwell.cli.evaluate import app  # noqa: E402
from stepwell.evaluate import precision_arms  # noqa: E402
from stepwell.evaluate.precision_arms import (  # noqa: E402
    formats_of,
    open_plain,
    restored_weight,
    simulated,
)
from stepwell.evaluate.precision_run import PrecisionOptions, evaluate_precision  # noqa: E402
from stepwell.evaluate.precision_sensitivity import (  # noqa: E402
    SensitivityOptions,
    UnitFindings,
    choose,
    evaluate_sensitivity,
)
from stepwell.evaluate.precision_settings import Arm, How  # noqa: E402
from stepwell.evaluate.precision_stats import bootstrap_difference, bootstrap_mean  # noqa: E402
from stepwell.evaluate.precision_text import KEPT, Kept, make_passages  # noqa: E402
from stepwell.evaluate.precision_units import (  # noqa: E402
    Linear,
    Unit,
    linear_layers,
    make_units,
    share_of_bfloat16,
)
from stepwell.evaluate.quality_model import Subject  # noqa: E402
from stepwell.evaluate.quality_stats import Pairs, tango_interval  # noqa: E402
from stepwell.kernels.linear.quantize import WeightFormat  # noqa: E402
from stepwell.kernels.native import dot  # noqa: E402
from stepwell.kernels.paged_attention import KVFormat  # noqa: E402
from stepwell.model.weight_recipe import Recipe, load_recipe  # noqa: E402

INT4, INT8, BF16 = WeightFormat.INT4, WeightFormat.INT8, WeightFormat.BFLOAT16
LENGTH = 288


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No recipe of the machine's user takes part."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_plain("house", device="cpu")


def _arm(weights: WeightFormat, **exceptions: Any) -> Arm:
    recipe = Recipe("", weights, exceptions.pop("kept", {}))
    return Arm(weights=weights, how=How.SIMULATED, recipe=recipe)


def _options(arms: Sequence[Arm], **changes: Any) -> PrecisionOptions:
    sizes: dict[str, Any] = {"n": 40, "texts": 2, "length": LENGTH, "tasks": ("pairs", "codes")}
    return PrecisionOptions(model="house", arms=tuple(arms), **(sizes | changes))


def test_kl_of_kept_predictions_is_the_whole_one_or_a_little_less() -> None:
    source = torch.Generator().manual_seed(1)
    for vocabulary in (50, KEPT, KEPT + 3000):
        logits = 3 * torch.randn(2, 6, vocabulary, generator=source)
        base, other = torch.log_softmax(logits, -1)
        wanted = nn.functional.kl_div(other, base, log_target=True, reduction="none").sum(-1)
        found = Kept.of(base).divergence(other)
        assert torch.equal(Kept.of(base).best, base.argmax(-1))
        assert (found <= wanted + 1e-4).all() and (found >= 0.9 * wanted).all()
        if vocabulary <= KEPT:
            assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
        assert float(Kept.of(base).divergence(base).max()) < 1e-6


def test_bootstrap_intervals() -> None:
    pairs = Pairs(both=900, gained=12, lost=30, neither=58)
    low, high = bootstrap_difference(pairs)
    assert (low, high) == pytest.approx(tango_interval(pairs), abs=0.002)
    assert bootstrap_difference(Pairs(10, 0, 0, 3)) == (0.0, 0.0)
    source = np.random.default_rng(3)
    texts = [source.normal(5, 1, 30).tolist() for _ in range(200)]
    low, high = bootstrap_mean(texts)
    error = 1 / np.sqrt(200 * 30)
    assert (low, high) == pytest.approx((5 - 1.96 * error, 5 + 1.96 * error), abs=0.03)
    together = [[float(i)] * 50 for i in range(10)]  # ten observations, not 500
    low, high = bootstrap_mean(together)
    assert high - low > 2.5
    with pytest.raises(ValueError, match="no positions"):
        bootstrap_mean([[]])


def test_passages_are_spread_and_do_not_overlap() -> None:
    found = make_passages(range(1000), opening=[7], count=4, context=101, following=50)
    assert [p.context[0] for p in found] == [7] * 4 and found[0].context[1] == 0
    assert [len(p.context) for p in found] == [101] * 4 and found[-1].following[-1] == 999
    starts = [p.context[1] for p in found]
    assert all(b - a >= 150 for a, b in pairwise(starts))
    assert len(make_passages(range(320), opening=[], count=9, context=100, following=50)) == 2
    assert make_passages(range(100), opening=[], count=9, context=100, following=50) == []


def test_layers_units_and_bytes(subject: Subject) -> None:
    layers = linear_layers(subject.loaded.model)
    assert len(layers) == 6 * 7 + 1 and layers[-1].name == "lm_head"
    units = make_units(layers, at_most=99)
    assert len(units) == 6 * 4 + 1 and units[0].name == "layer 0 qkv"
    assert [linear.name.rpartition(".")[2] for linear in units[0].members] == [
        "q_proj", "k_proj", "v_proj",
    ]  # fmt: skip
    joined = make_units(layers, at_most=15)
    assert [unit.name for unit in joined][-1] == "lm_head" and len(joined) == 3 * 4 + 1
    assert sum(len(unit.members) for unit in joined) == len(layers)
    assert len(make_units(layers, at_most=1)) == 5  # kinds are never joined
    assert share_of_bfloat16(layers, BF16) == 1.0
    assert share_of_bfloat16(layers, INT4) == 0.265625
    assert share_of_bfloat16(layers, INT4, {"lm_head": BF16}) == pytest.approx(
        0.265625 + (1 - 0.265625) * 4096 * 256 / sum(a * b for a, b in (x.shape for x in layers))
    )


def test_a_row_that_no_group_divides_stays_in_bfloat16() -> None:
    odd = Linear("odd", nn.Linear(40, 8, bias=False, dtype=torch.bfloat16))
    assert not odd.takes(INT4) and odd.nbytes(INT4) == odd.nbytes(BF16) == 640
    before = odd.module.weight
    with simulated({odd: INT4}):
        assert odd.module.weight is before


def test_simulation_changes_the_named_layers_and_gives_them_back(subject: Subject) -> None:
    model = subject.loaded.model
    layers = linear_layers(model)
    first, head = layers[0], layers[-1]
    embedding = model.get_input_embeddings().weight
    pointers = [linear.module.weight.data_ptr() for linear in layers]
    with simulated(formats_of(layers, _arm(INT4, kept={first.name: BF16}))):
        assert first.module.weight.data_ptr() == pointers[0]
        assert head.module.weight.data_ptr() != pointers[-1]  # the embedding keeps its own
        assert model.get_input_embeddings().weight is embedding
        wanted = restored_weight(embedding, INT4)
        assert torch.equal(head.module.weight, wanted)
    assert [linear.module.weight.data_ptr() for linear in layers] == pointers
    with pytest.raises(ConfigError, match=r"no linear layer.*--no-recipe"):
        formats_of(layers, _arm(INT4, kept={"model.nothing": INT8}))


def test_exact_weights_change_nothing_and_bad_ones_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(weight: torch.Tensor, format: WeightFormat) -> torch.Tensor:
        return weight.clone() if format is INT8 else torch.zeros_like(weight)

    monkeypatch.setattr(precision_arms, "restored_weight", other)
    document = evaluate_precision(_options([_arm(INT8), _arm(INT4)]), on_progress=lambda *_: None)
    exact, damaged = document["arms"]
    assert exact["fidelity"]["kl_max"] == 0 and exact["fidelity"]["top1_agreement"] == 1
    assert exact["fidelity"]["perplexity_ratio"] == 1
    assert exact["fidelity"]["positions"] == 2 * 128
    assert exact["recall_all"]["lost"] == exact["recall_all"]["gained"] == 0
    assert document["unquantized"]["recall"]["codes"]["accuracy"] > 0.85
    assert damaged["fidelity"]["kl_mean"] > 1 and damaged["recall_all"]["accuracy"] == 0
    assert damaged["recall_all"]["difference_bootstrap_95"][1] < -0.5
    assert not damaged["recall_all"]["noninferior_1pt"]


@pytest.mark.skipif(dot.missing_features() is not None, reason=str(dot.missing_features()))
def test_the_engine_computes_what_is_simulated() -> None:
    """As close as other kernels alone bring it; int8's activations are rounded, too."""
    kept = {"model.layers.0.self_attn.o_proj": INT8}
    arms = [Arm(weights=BF16, how=How.ENGINE)]
    for weights, exceptions in ((INT8, {}), (INT4, kept)):
        recipe = Recipe("", weights, exceptions)
        arms += [Arm(weights=weights, how=how, recipe=recipe) for how in How]
    options = _options(arms, n=2, texts=3)
    document = evaluate_precision(options, on_progress=lambda *_: None)
    control, int8, int8_simulated, int4, int4_simulated = document["arms"]
    assert control["fidelity"]["kl_mean"] < 1e-3 and control["share_of_bfloat16_bytes"] == 1
    assert int8["fidelity"]["kl_mean"] < 3e-3
    assert int4["fidelity"]["kl_mean"] == pytest.approx(
        int4_simulated["fidelity"]["kl_mean"], rel=0.2
    )
    for one, other in ((int8, int8_simulated), (int4, int4_simulated)):
        assert one["share_of_bfloat16_bytes"] == other["share_of_bfloat16_bytes"]
    assert 0.265625 < int4["share_of_bfloat16_bytes"] < 0.28
    assert int4["exceptions"] == {name: "int8" for name in kept}


@pytest.mark.skipif(dot.missing_features() is not None, reason=str(dot.missing_features()))
def test_kv_in_low_bits() -> None:
    arms = [Arm(weights=BF16, how=How.ENGINE, kv=form) for form in KVFormat]
    document = evaluate_precision(_options(arms, n=2, texts=2), on_progress=lambda *_: None)
    kls = [arm["fidelity"]["kl_mean"] for arm in document["arms"]]
    shares = [arm["kv_share_of_bfloat16_bytes"] for arm in document["arms"]]
    assert kls[1] < 3 * kls[0] < kls[2] < 0.1 and shares[0] == 1
    assert shares[1] <= 0.55 and shares[2] <= 0.32


def test_choosing_goes_by_kl_a_byte_and_fits() -> None:
    figures = [(5.0, 100), (1.0, 10), (0.9, 10), (0.0, 1)]
    units = [UnitFindings(Unit(str(i), ()), *found) for i, found in enumerate(figures)]
    assert [one.unit.name for one in choose(units, room=25)] == ["1", "2"]
    assert [one.unit.name for one in choose(units, room=110)] == ["1", "2"]
    assert [one.unit.name for one in choose(units, room=120)] == ["1", "2", "0"]
    assert choose(units, room=0) == []


def test_sensitivity_finds_the_layer_that_hurts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer is damaged ten times as much as others: it is the first to be kept."""
    real, target = restored_weight, "model.layers.3.self_attn.o_proj"
    hurt = open_plain("house", device="cpu").loaded.model.get_submodule(target).weight.clone()

    def worse(weight: torch.Tensor, format: WeightFormat) -> torch.Tensor:
        changed = real(weight, format)
        if weight.shape == hurt.shape and torch.equal(weight, hurt):
            changed = weight + 10 * (changed - weight)
        return changed

    monkeypatch.setattr(precision_arms, "restored_weight", worse)
    options = SensitivityOptions(model="house", format=INT4, tokens=512, length=256, units=30)
    recipe, document = evaluate_sensitivity(options, on_progress=lambda *_: None)
    measured = document["measured"]
    assert recipe.exceptions[target] is INT8 and document["kept"][0] == "layer 3 o_proj"
    assert measured["kl_mean"] < 0.8 * measured["kl_plain"]
    assert measured["share_plain"] < measured["share"] <= 0.285
    with pytest.raises(ConfigError, match=r"26\.56%"):
        evaluate_sensitivity(
            SensitivityOptions(model="house", format=INT4, budget=0.2, tokens=512, length=256),
            on_progress=lambda *_: None,
        )


def test_the_commands_write_a_recipe_tables_and_json(tmp_path: Path) -> None:
    small = ["--tokens", "256", "--length", "128", "--units", "5"]
    result = CliRunner().invoke(app, ["sensitivity", "house", *small, "--explain"])
    assert result.exit_code == 0, result.output
    assert "lm_head" in result.stdout and "weights.int4.exceptions" in result.stdout
    folder = open_plain("house", device="cpu").folder
    made = load_recipe(folder, INT4)
    assert made is not None and made.measured["share"] <= 0.285
    place = tmp_path / "precision.json"
    usual = ["precision", "house", "--quick", "--length", "128", "--n", "4", "--texts", "1"]
    usual += ["--on", "simulated"]
    arguments = [*usual, "--weights", "int4", "--out", str(place), "--explain"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "within 1 point" in result.stdout
    document = json.loads(place.read_text())
    assert document["arms"][0]["exceptions"] == {k: str(v) for k, v in made.exceptions.items()}
    result = CliRunner().invoke(app, [*usual, "--weights", "nf4", "--tasks", "none", "--json"])
    assert "recall" not in json.loads(result.stdout)["arms"][0]


def test_joining_adds_questions_and_arms(tmp_path: Path) -> None:
    usual = ["precision", "house", "--quick", "--length", "128", "--n", "4", "--on", "simulated"]
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    runs = (["--weights", "int4", "--texts", "1"], ["--weights", "int4,nf4", "--texts", "0"])
    for seed, (changes, file) in enumerate(zip(runs, files, strict=False)):
        arguments = [*usual, *changes, "--seed", str(seed), "--out", str(file)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    joining = ["join", str(files[0]), str(files[1]), "--out", str(files[2])]
    result = CliRunner().invoke(app, joining)
    assert result.exit_code == 0, result.output
    document = json.loads(files[2].read_text())
    int4, nf4 = document["arms"]
    assert int4["recall_all"]["n"] == 8 and nf4["recall_all"]["n"] == 4
    assert "kl_mean" in int4["fidelity"] and "fidelity" not in nf4
    assert document["unquantized"]["recall"]["pairs"]["n"] == 4
    assert "perplexity" in document["unquantized"] and len(document["runs"]) == 2
    result = CliRunner().invoke(app, ["join", str(files[0]), str(files[0])])
    assert "two of these results" in str(result.exception)
    files[1].write_text(json.dumps({"arms": []}))
    result = CliRunner().invoke(app, ["join", str(files[0]), str(files[1])])
    assert "no result" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["precision", "house", "--weights", "int5"], "int4"),
        (["precision", "house", "--weights", ""], "no format"),
        (["precision", "house", "--on", "paper"], "simulated"),
        (["precision", "house", "--on", ""], "nothing to measure on"),
        (["precision", "house", "--device", "cuda"], "--on simulated"),
        (["precision", "house", "--kv", "fp8"], "int8"),
        (["precision", "house", "--kv", ""], "no kv format"),
        (["precision", "house", "--kv", "int8", "--on", "simulated"], "--on engine"),
        (["precision", "house", "--tasks", "needles"], "needle"),
        (["precision", "house", "--device", "tpu"], "cpu or cuda"),
        (["precision", "house", "--length", "4000"], "3584"),
        (["precision", "house", "--text", "/nonexistent.txt"], "cannot read"),
        (["sensitivity", "house", "--length", "5000"], "4096"),
        (["sensitivity", "house", "--weights", "int4,int8", "--recipe", "x"], "one format"),
    ],
)
def test_refusals_say_what_to_do(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert words in str(result.exception)


@pytest.mark.parametrize("format", [WeightFormat.BFLOAT16, WeightFormat.LOSSLESS])
def test_formats_that_lose_nothing_have_no_sensitivity(format: WeightFormat) -> None:
    options = SensitivityOptions(model="house", format=format)
    with pytest.raises(ConfigError, match="loses nothing"):
        evaluate_sensitivity(options, on_progress=lambda *_: None)
