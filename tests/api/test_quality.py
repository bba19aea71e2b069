"""`stepwell evaluate quality` on the house model: exact codecs change nothing, bad ones show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

import torch

from stepwell.base.errors import ConfigError
from stepwell.cli.evaluate import app
from stepwell.codec.kvtc.train import Gatherer, TrainingOptions, train_calibration
from stepwell.evaluate import quality_run
from stepwell.evaluate.quality_cache import Caches, Snapshot
from stepwell.evaluate.quality_codecs import (
    BlockCodec,
    Coded,
    Context,
    KvtcCodec,
    restore,
)
from stepwell.evaluate.quality_fidelity import Fidelity
from stepwell.evaluate.quality_model import Subject, Training, held_out_tokens, open_subject
from stepwell.evaluate.quality_run import QualityOptions, evaluate_quality
from stepwell.evaluate.quality_settings import Setting, make_settings
from stepwell.evaluate.quality_tasks import LARGE_TASKS
from stepwell.evaluate.shapes import house_folder
from stepwell.model.rotary import row_layouts
from tests.checkpoints import ARCHITECTURES, BASE

LENGTH = 288


@pytest.fixture(scope="module")
def subject() -> Subject:
    return open_subject("house", device="cpu")


@pytest.fixture(scope="module")
def text(subject: Subject) -> list[int]:
    return [*subject.opening, *held_out_tokens(subject, (), enough=4000)]


def _snapshot(subject: Subject, text: Sequence[int]) -> Snapshot:
    return Caches(subject.loaded, sequences=1, tokens=LENGTH).prefill(text[:LENGTH])


def _equal(one: Snapshot, other: Snapshot) -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_going_on_is_what_the_model_says_in_one_pass(subject: Subject, text: list[int]) -> None:
    from transformers import AutoModelForCausalLM

    truth = AutoModelForCausalLM.from_pretrained(subject.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = truth(torch.tensor([text[: LENGTH + 20]])).logits[0, LENGTH:]
    caches = Caches(subject.loaded, sequences=3, tokens=LENGTH + 64)
    snapshot = caches.prefill(text[:LENGTH])
    for sequence in (1, 2):
        caches.write(sequence, snapshot)
    logits = caches.extend([text[LENGTH : LENGTH + 20]] * 3, start=LENGTH)
    assert (logits.argmax(-1) == wanted.argmax(-1)).float().mean() > 0.9  # bfloat16 here
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    answers = caches.generate(text[LENGTH : LENGTH + 20], start=LENGTH, new_tokens=3)
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 3
    assert answers[0][0] == int(logits[0, -1].argmax())
    with pytest.raises(ValueError, match="not one to restore"):
        caches.write(0, snapshot)


@pytest.mark.parametrize("name", ["raw", "lossless"])
def test_exact_codecs_give_the_cache_back(subject: Subject, text: list[int], name: str) -> None:
    snapshot = _snapshot(subject, text)
    coded = restore(Context(snapshot), BlockCodec(name), sinks=4, window=16)
    assert _equal(coded.restored, snapshot)
    raw = subject.bytes_per_token * (LENGTH - 20)
    assert coded.size == raw if name == "raw" else 0.6 * raw < coded.size < 0.75 * raw
    assert 0 <= coded.side < 0.05 * coded.size


def test_sinks_and_window_stay_exact(subject: Subject, text: list[int]) -> None:
    snapshot = _snapshot(subject, text)
    back = restore(Context(snapshot), BlockCodec("int4"), sinks=5, window=33).restored
    assert _equal(back.part(0, 5), snapshot.part(0, 5))
    assert _equal(back.part(LENGTH - 33, LENGTH), snapshot.part(LENGTH - 33, LENGTH))
    assert not _equal(back.part(5, LENGTH - 33), snapshot.part(5, LENGTH - 33))
    whole = restore(Context(snapshot), BlockCodec("int4"), sinks=0, window=0)
    assert not _equal(whole.restored.part(0, 5), snapshot.part(0, 5))
    spared = restore(Context(snapshot), BlockCodec("int4"), sinks=200, window=200)
    assert _equal(spared.restored, snapshot) and spared.size == 0


def test_kvtc_s_bytes_are_the_calibration_s(subject: Subject, text: list[int]) -> None:
    keys, values = row_layouts(subject.loaded)
    snapshot = _snapshot(subject, text)
    rows = snapshot.rows(keys, values)
    gathered = Gatherer.of(width=rows.shape[1], sample=400)
    gathered.add(rows[4:])
    calibration = train_calibration(
        gathered, weights=bytes(32), keys=keys, values=values,
        options=TrainingOptions(joint=False, rungs=4),
    )  # fmt: skip
    codec = KvtcCodec(calibration, 8.0)
    found = restore(Context(snapshot), codec, sinks=4, window=24)
    rungs, steps = zip(*codec.choices, strict=True)
    size, back = 0, []
    for chunk in (rows[4:260], rows[260:264]):
        data = calibration.encode_rows(chunk, rungs=rungs, steps=steps)
        size += len(data)
        back.append(calibration.decode_rows(data, tokens=len(chunk)))
    assert found.size == pytest.approx(size, abs=15)  # rounding of a few levels, no checksum less
    restored = found.restored.rows(keys, values)[4:264]
    error = (restored - torch.cat(back)).norm() / torch.cat(back).norm()
    assert error < 0.01  # the cache is bfloat16


def test_fidelity_of_the_same_and_of_other_predictions() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(6)
    same, other = Fidelity(), Fidelity()
    same.add(logits, logits, targets)
    assert same.as_dict() | {"perplexity": 0} == {
        "positions": 6, "kl_mean": 0.0, "kl_p99": 0.0, "kl_max": 0.0, "top1_agreement": 1.0,
        "perplexity": 0,
    }  # fmt: skip
    loss = torch.nn.functional.cross_entropy(logits, targets)
    assert same.as_dict()["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
    other.add(logits, -logits, targets)
    wanted = torch.nn.functional.kl_div(
        (-logits).log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert other.as_dict()["kl_mean"] == pytest.approx(float(wanted), rel=1e-3)
    assert other.as_dict()["top1_agreement"] == 0.0


@dataclass(frozen=True)
class Forgetful:
    """Loses the values of every token that it is given."""

    artifact_bytes: int = 0

    def run(self, context: Context, start: int, stop: int) -> Coded:
        part = context.snapshot.part(start, stop)
        lost = Snapshot(tuple((key, torch.zeros_like(value)) for key, value in part.layers))
        return Coded(lost, 100, 0)


def _options(settings: Sequence[Setting], **changes: Any) -> QualityOptions:
    sizes: dict[str, Any] = {"n": 60, "texts": 2, "length": LENGTH, "tasks": ("pairs", "codes")}
    sizes |= {"model": "house"} | changes
    return QualityOptions(settings=tuple(settings), **sizes)


def test_a_codec_that_damages_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [Setting(codec=name, ratio=None, sinks=4, window=16) for name in ("raw", "int4")]
    codecs = [BlockCodec("lossless"), Forgetful()]
    monkeypatch.setattr(quality_run, "make_codecs", lambda *_, **__: codecs)
    document = evaluate_quality(_options(settings), on_progress=lambda *_: None)
    exact, damaged = document["settings"]
    assert exact["fidelity"]["kl_max"] == 0 and exact["fidelity"]["top1_agreement"] == 1
    assert exact["fidelity"]["perplexity"] == document["vanilla"]["perplexity"]
    assert exact["recall_all"]["lost"] == exact["recall_all"]["gained"] == 0
    assert document["vanilla"]["recall"]["codes"]["accuracy"] > 0.85
    assert damaged["fidelity"]["kl_mean"] > 0.3
    assert damaged["recall_all"]["accuracy"] < 0.5
    assert damaged["recall_all"]["mcnemar_exact_p"] < 1e-6
    assert damaged["recall_all"]["difference_tango_95"][1] < -0.01


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("int8", "int4", "fp8")
    settings = [Setting(codec=name, ratio=None, sinks=4, window=16) for name in names]
    options = _options(settings, n=6)
    whole = evaluate_quality(options, on_progress=lambda *_: None)
    monkeypatch.setattr(quality_run, "_POOL_BYTES", 3 * 3072 * (LENGTH + 512))
    grouped = evaluate_quality(options, on_progress=lambda *_: None)
    assert grouped["vanilla"]["answers"] == whole["vanilla"]["answers"]
    for one, other in zip(whole["settings"], grouped["settings"], strict=True):
        assert one["sums"] == other["sums"]
        assert one["fidelity"]["positions"] == other["fidelity"]["positions"] == 2 * 127
        assert other["fidelity"]["kl_mean"] == pytest.approx(one["fidelity"]["kl_mean"], rel=0.3)


def test_the_command_writes_tables_json_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("a.json", "b.json", "c.json", "d.svg")]
    usual = ["quality", "--quick", "--length", "256", "--window", "16"]
    for place, codec, n in ((files[0], "lossless", "8"), (files[1], "int4", "8")):
        arguments = [*usual, "--codec", codec, "--n", n, "--out", str(place)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "Recall by depth" in result.stdout and codec in result.stdout
    joining = ["join", str(files[0]), str(files[1]), "--json"]
    result = CliRunner().invoke(app, [*joining, "--out", str(files[2]), "--plot", str(files[3])])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads(files[2].read_text()) and files[3].stat().st_size > 5000
    assert [row["codec"] for row in document["settings"]] == ["lossless", "int4"]
    assert document["settings"][0]["fidelity"]["kl_max"] == 0
    result = CliRunner().invoke(app, ["join", str(files[2]), "--json"])  # a joined one again
    again = json.loads(result.stdout)
    assert again["settings"] == document["settings"] and again["runs"] == document["runs"]
    assert len(document["runs"]) == 2 and document["vanilla"]["recall"]["pairs"]["n"] == 4


@pytest.mark.parametrize("model_type", ["gemma2", "qwen3"])
def test_other_models_with_ruler_s_tasks(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = BASE | ARCHITECTURES[model_type]
    settings |= {"vocab_size": 4096, "max_position_embeddings": 2048}
    config = AutoConfig.for_model(model_type, **settings)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(house_folder() / name, tmp_path)
    made = make_settings(["lossless", "int4", "kvtc"], [8], [4], [16])
    document = evaluate_quality(
        _options(made, model=str(tmp_path), n=8, texts=1, tasks=LARGE_TASKS,
                 training=Training(tokens=2100, sample=1000, rungs=3)),
        on_progress=lambda *_: None,
    )  # fmt: skip
    exact, int4, kvtc = document["settings"]
    assert exact["fidelity"]["kl_max"] == 0 and exact["recall_all"]["lost"] == 0
    assert int4["fidelity"]["kl_mean"] > 0 and kvtc["fidelity"]["kl_mean"] > 0
    assert 3 < kvtc["bytes"]["ratio_coded"] < 12 and kvtc["bytes"]["artifact_bytes"] > 1000
    assert set(document["vanilla"]["recall"]) == set(LARGE_TASKS)
    assert document["verdicts"][0]["tasks"] == []  # a random model knows nothing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--codec", "kvtk"], "kvtc"),
        (["--ratio", "8,fast"], "no list of numbers"),
        (["--tasks", "needles"], "needle"),
        (["--window", "-1"], "window"),
        (["--device", "tpu"], "cpu or cuda"),
        (["--length", "4000"], "3584"),
        (["--length", "100", "--quick"], "nothing"),
        (["--calibration", "/nonexistent.kvtc", "--codec", "kvtc"], "cannot be used"),
        (["--text", "/nonexistent.txt"], "cannot read"),
    ],
)
def test_refusals_say_what_to_do(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["quality", "house", *arguments])
    assert isinstance(result.exception, ConfigError), result.output
    assert words in str(result.exception)


def test_join_refuses_other_files(tmp_path: Path) -> None:
    place = tmp_path / "other.json"
    place.write_text("{}")
    result = CliRunner().invoke(app, ["join", str(place)])
    assert "no result" in str(result.exception)
