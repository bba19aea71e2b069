"""The model under test, the texts, and the codecs that need to be calibrated on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stepwell.base.config import ModelConfig
from stepwell.base.errors import ConfigError
from stepwell.codec.kvtc.artifact import read_calibration
from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.container import ArtifactError
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.codec.kvtc.train import Gatherer, TrainingOptions, train_calibration
from stepwell.evaluate.calibrate import OnProgress
from stepwell.evaluate.codec_paper import Paper
from stepwell.evaluate.codec_text import library_texts
from stepwell.evaluate.quality_codecs import BlockCodec, CacheCodec, KvtcCodec, PaperCodec
from stepwell.evaluate.quality_settings import KVTC, PAPER, RATED, Setting
from stepwell.model.identity import weights_hash
from stepwell.model.load import LoadedModel, find_checkpoint, load_model, read_hf_config
from stepwell.model.record import record
from stepwell.model.rotary import row_layouts

_LINES = 40  # encoded at a time


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model with a tokenizer. `opening`: tokens that open every text."""

    loaded: LoadedModel
    folder: Path
    opening: list[int]

    def encode(self, text: str) -> list[int]:
        """Token ids, none added."""
        assert self.loaded.tokenizer is not None
        return list(self.loaded.tokenizer.encode(text, special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of generated tokens."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer.decode(tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the model takes."""
        config = self.loaded.hf_config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 1 << 30))

    @property
    def bytes_per_token(self) -> int:
        """Of the uncompressed cache, in the dtype that it is served in."""
        width = sum(s.kv_heads * (s.key_dim + s.value_dim) for s in self.loaded.shapes.values())
        return width * int(next(self.loaded.model.parameters()).dtype.itemsize)


def open_subject(model: str, *, device: str) -> Subject:
    """Load in bfloat16. Raises ModelError and ConfigError, saying what is missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here.", hint="--device cpu", param="device")
    folder = find_checkpoint(model)
    loaded = load_model(
        ModelConfig(path=model),
        folder,
        read_hf_config(folder),
        dtype=torch.bfloat16,
        device=torch.device(device),
    )
    if loaded.tokenizer is None:
        raise ConfigError("the model has no tokenizer.", hint="Add its files.", param="model")
    return Subject(loaded, folder, list(loaded.tokenizer.encode("")))


def held_out_tokens(subject: Subject, texts: Sequence[Path], *, enough: int) -> list[int]:
    """Text that calibration has not seen: the files, or what the library keeps back."""
    if texts:
        try:
            found = [path.read_text(encoding="utf-8", errors="replace") for path in texts]
        except OSError as error:
            raise ConfigError(f"cannot read the text: {error}.", param="text") from None
    else:
        found = library_texts()[1]
    return encode_texts(subject, found, enough=enough)


def encode_texts(subject: Subject, texts: Sequence[str], *, enough: int) -> list[int]:
    """Tokens of these texts until there are enough. Some lines at a time: tokenizers warn of texts
    longer than the model takes."""
    found: list[int] = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        for at in range(0, len(lines), _LINES):
            found += subject.encode("".join(lines[at : at + _LINES]))
            if len(found) >= enough:
                return found
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How much calibration takes when no file is given: tokens of library text, rows kept of
    them, rungs of the ladder."""

    tokens: int = 65_536
    length: int = 1024 + SINK_TOKENS
    sample: int = 8_000
    rungs: int = 20


def make_codecs(
    subject: Subject,
    settings: Sequence[Setting],
    *,
    calibration: Path | None,
    training: Training,
    on_progress: OnProgress,
) -> list[CacheCodec]:
    """One for each setting. `kvtc` is calibrated here unless a file is given, `kvtc-paper` always
    (its transforms are in no file); both on the same texts."""
    names = {setting.codec for setting in settings}
    needs = names & ({PAPER} if calibration is not None else set(RATED))
    keys, values, gathered = None, None, None
    if needs:
        keys, values = row_layouts(subject.loaded)
        gathered = _gather(subject, keys, values, training, on_progress)
    ours: Calibration | None = None
    if KVTC in names and calibration is not None:
        ours = _read(calibration, weights=weights_hash(subject.folder))
    elif KVTC in names:
        assert gathered is not None and keys is not None and values is not None
        on_progress("calibrating kvtc", 0, 1)
        ours = train_calibration(
            gathered,
            weights=weights_hash(subject.folder),
            keys=keys,
            values=values,
            options=TrainingOptions(rungs=training.rungs),
        )
    paper: Paper | None = None
    if PAPER in names:
        assert gathered is not None and keys is not None and values is not None
        on_progress("calibrating kvtc-paper", 0, 1)
        paper = Paper.train(gathered, keys, values)
    made: dict[tuple[str, float | None], CacheCodec] = {}
    for setting in settings:
        place = (setting.codec, setting.ratio)
        if place not in made:
            made[place] = _codec(setting, ours, paper, keys, values)
    return [made[setting.codec, setting.ratio] for setting in settings]


def _codec(
    setting: Setting,
    ours: Calibration | None,
    paper: Paper | None,
    keys: RowLayout | None,
    values: RowLayout | None,
) -> CacheCodec:
    if setting.ratio is None:
        return BlockCodec(setting.codec)
    if setting.codec == KVTC:
        assert ours is not None
        return KvtcCodec(ours, setting.ratio)
    assert paper is not None and keys is not None and values is not None
    return PaperCodec(paper, keys, values, setting.ratio)


def _gather(
    subject: Subject, keys: RowLayout, values: RowLayout, training: Training, progress: OnProgress
) -> Gatherer:
    gathered = Gatherer.of(width=keys.width + values.width, sample=training.sample)
    tokens = encode_texts(subject, library_texts()[0][::2], enough=training.tokens)[
        : training.tokens
    ]
    step = training.length - len(subject.opening)
    for at in range(0, len(tokens), step):
        progress("calibration texts through the model", at, len(tokens))
        piece = [*subject.opening, *tokens[at : at + step]]
        gathered.add(record(subject.loaded, piece, keys=keys, values=values).rows[SINK_TOKENS:])
    return gathered


def _read(path: Path, *, weights: bytes) -> Calibration:
    try:
        return read_calibration(path, weights=weights)
    except (ArtifactError, OSError) as error:
        raise ConfigError(
            f"the calibration {path} cannot be used: {error}.",
            hint="Make it with `stepwell calibrate MODEL --out FILE`, or leave --calibration out.",
            param="calibration",
        ) from None
