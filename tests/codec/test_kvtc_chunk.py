"""`kvtc` as a codec: blocks in, bytes, blocks out; sinks exact; what does not fit is kept exact."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from stepwell.codec.contract import Buffer, DecodeError, KeepExact  # noqa: E402
from stepwell.codec.kvtc.blocks import BlockRows  # noqa: E402
from stepwell.codec.kvtc.chunk import KvtcCodec, KvtcTarget  # noqa: E402
from stepwell.codec.kvtc.layout import LayerPart, RowLayout  # noqa: E402
from stepwell.codec.kvtc.rate import RowCoder  # noqa: E402
from stepwell.codec.kvtc.rotary import Rotary  # noqa: E402
from stepwell.codec.shape import BlockShape, LayerKV  # noqa: E402
from tests.codec.chunks import campaign  # noqa: E402
from tests.codec.kvtc_shapes import DIM, HEADS, KEYS, LAYERS, VALUES, calibration, rows  # noqa: E402

TOKENS = 8
SHAPE = BlockShape(
    dtype=torch.float32,
    tokens=TOKENS,
    layers=(LayerKV(kv_heads=HEADS, key_dim=DIM, value_dim=DIM),) * LAYERS,
)
LAYOUT = BlockRows(SHAPE, keys=KEYS, values=VALUES)


def codec(*, joint: bool = True, **target: float) -> KvtcCodec:
    wanted = KvtcTarget(**({"ratio": 4.0} | target))  # type: ignore[arg-type]
    return KvtcCodec(calibration(joint=joint), shape=SHAPE, target=wanted)


def chunk(blocks: int, *, index: int, seed: int = 9) -> tuple[torch.Tensor, list[Buffer]]:
    """Blocks as the pool would have them at this place of a chain, and their bytes."""
    numbers = LAYOUT.scatter(rows(blocks * TOKENS, seed=seed), first=index * blocks * TOKENS)
    return numbers, [memoryview(row) for row in numbers.view(torch.uint8).numpy()]


def decoded(which: KvtcCodec, parts: Sequence[Buffer], like: Sequence[Buffer]) -> torch.Tensor:
    out = [memoryview(bytearray(part.nbytes)) for part in like]
    which.decode([memoryview(bytes(part)) for part in parts], out)
    return torch.frombuffer(bytearray(b"".join(out)), dtype=SHAPE.dtype).view(len(like), -1)


def error_of(joint: bool, given: torch.Tensor, back: torch.Tensor) -> float:
    """Share of the energy, in the geometry of each plane."""
    total = energy = 0.0
    for plane in calibration(joint=joint).planes:
        difference = (back - given)[:, plane.start : plane.stop]
        if plane.basis.metric is not None:
            difference = plane.basis.metric.weigh(difference)
        total += float(difference.square().sum())
        energy += plane.energy
    return total / (len(given) * energy)


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("joint", [True, False])
def test_what_comes_back_is_within_the_error_that_the_head_tells(index: int, joint: bool) -> None:
    which = codec(joint=joint)
    numbers, parts = chunk(4, index=index)
    encoded = which.encode(parts, index=index)
    told = struct.unpack_from("<f", encoded[0], 12)[0]
    back = decoded(which, encoded, parts)
    sinks = 4 if index == 0 else 0
    first = index * 4 * TOKENS
    given = LAYOUT.gather(numbers, first=first)[sinks:]
    got = LAYOUT.gather(back, first=first)[sinks:]
    seen = error_of(joint, given, got)
    assert seen == pytest.approx(told, rel=0.02)
    assert told <= 2 * which.expected_error
    assert sum(part.nbytes for part in encoded) < numbers.nbytes / 3


def test_the_first_tokens_come_back_exactly_and_only_at_the_start() -> None:
    which = codec()
    for index, exact in ((0, 4), (1, 0)):
        numbers, parts = chunk(2, index=index)
        back = decoded(which, which.encode(parts, index=index), parts)
        same = (LAYOUT.gather(back, first=0) == LAYOUT.gather(numbers, first=0)).all(1)
        assert same.tolist() == [at < exact for at in range(2 * TOKENS)]


def test_keys_are_turned_by_the_position_that_the_value_names() -> None:
    which = codec()
    numbers, parts = chunk(2, index=1)
    there = which.encode(parts, index=1)
    elsewhere = codec(limit=1e9).encode(parts, index=7)
    assert bytes(there[2]) != bytes(elsewhere[2])
    size = float(numbers.abs().max())
    for reader, encoded in ((which, there), (codec(limit=1e9), elsewhere)):
        back = decoded(reader, encoded, parts)
        assert float((back - numbers).abs().max()) < 0.1 * size


def test_the_fast_coder_and_the_reference_read_each_other() -> None:
    for joint in (True, False):
        made = calibration(joint=joint)
        fast = RowCoder(made, ratio=4.0)
        given = rows(64, seed=11)
        data, error = fast.encode(given)
        back, plain = fast.decode(data, tokens=64), made.decode_rows(data, tokens=64)
        assert torch.allclose(back, plain, atol=0.02 * float(given.abs().max()))
        assert error == pytest.approx(error_of(joint, given, plain), rel=0.02)
        rungs = [plane.choice[0] for plane in fast._planes]
        steps = [plane.choice[1] for plane in fast._planes]
        reference = made.encode_rows(given, rungs=rungs, steps=steps)
        assert len(data) == pytest.approx(len(reference), rel=0.03)


@pytest.mark.parametrize("error", [0.005, 0.05])
def test_an_error_can_be_aimed_at_instead_of_a_ratio(error: float) -> None:
    which = codec(joint=False, error=error)
    assert which.expected_error == pytest.approx(error, rel=0.1)
    _, parts = chunk(8, index=1)
    told = struct.unpack_from("<f", which.encode(parts, index=1)[0], 12)[0]
    assert told == pytest.approx(error, rel=0.4)


def test_noise_and_numbers_that_are_not_finite_are_kept_exact() -> None:
    which = codec()
    noise = torch.randn(2, SHAPE.numbers, generator=torch.Generator().manual_seed(1)) * 10
    with pytest.raises(KeepExact, match="error"):
        which.encode([memoryview(row) for row in noise.view(torch.uint8).numpy()], index=1)
    for bad in (float("nan"), float("inf")):
        numbers, _ = chunk(2, index=1)
        numbers[1, 5] = bad
        with pytest.raises(KeepExact, match="finite"):
            which.encode([memoryview(row) for row in numbers.view(torch.uint8).numpy()], index=1)
    with pytest.raises(KeepExact, match="whole"):
        which.encode([memoryview(bytes(SHAPE.nbytes + 1))], index=0)


def test_bytes_of_another_target_or_place_are_refused() -> None:
    which = codec()
    _, parts = chunk(2, index=1)
    encoded = [bytes(part) for part in which.encode(parts, index=1)]
    out = [memoryview(bytearray(part.nbytes)) for part in parts]
    with pytest.raises(DecodeError, match="calibration or target"):
        codec(ratio=8.0).decode([memoryview(part) for part in encoded], out)
    with pytest.raises(DecodeError):
        which.decode([memoryview(part) for part in encoded], out[:1])
    for place in range(len(encoded[0])):
        head = bytearray(encoded[0])
        head[place] ^= 0x11
        given = [memoryview(bytes(head)), *map(memoryview, encoded[1:])]
        if 4 <= place < 8 and not int.from_bytes(head[4:8], "little") % (2 * TOKENS):
            continue  # another position that a chunk may have: the tier's checksum is there for it
        if 12 <= place < 16:
            continue  # the error is told, not used
        with pytest.raises(DecodeError):
            which.decode(given, out)
    damaged = bytearray(encoded[2])
    damaged[40] ^= 1
    with pytest.raises(DecodeError, match="damaged"):
        which.decode([memoryview(encoded[0]), memoryview(b""), memoryview(bytes(damaged))], out)


def test_blocks_and_rows_as_the_layouts_have_them() -> None:
    """Layers that differ, so that several runs are needed, against the layouts' own code."""
    turn = Rotary(inv_freq=(1.0, 0.1))
    kinds = [(2, 4, 6, turn), (2, 4, 6, turn), (1, 4, 2, None), (2, 4, 6, turn)]
    shape = BlockShape(
        dtype=torch.bfloat16,
        tokens=4,
        layers=tuple(LayerKV(kv_heads=h, key_dim=k, value_dim=v) for h, k, v, _ in kinds),
    )
    keys = RowLayout(tuple(LayerPart(heads=h, dim=k, rotary=r) for h, k, _, r in kinds))
    values = RowLayout(tuple(LayerPart(heads=h, dim=v) for h, _, v, _ in kinds))
    both = BlockRows(shape, keys=keys, values=values)
    numbers = torch.randn(3, shape.numbers, generator=torch.Generator().manual_seed(2))
    numbers = numbers.to(torch.bfloat16)
    positions = 24 + torch.arange(12)
    parts = [
        numbers[:, s.start : s.start + s.size]
        .view(3, s.heads, s.tokens, s.dim)
        .transpose(0, 1)
        .reshape(s.heads, 12, s.dim)
        for s in shape.segments()
    ]
    expected = torch.cat(
        (
            keys.gather(parts[0::2], positions=positions),
            values.gather(parts[1::2], positions=positions),
        ),
        dim=1,
    )
    found = both.gather(numbers, first=24)
    assert torch.equal(found, expected)
    assert torch.allclose(both.scatter(found, first=24).float(), numbers.float(), atol=0.02)
    kept = both.exact(numbers, count=3)
    empty = torch.zeros_like(numbers)
    both.put_exact(empty, kept, count=3)
    assert torch.equal(both.gather(empty, first=24)[:3], found[:3])
    assert not both.gather(empty, first=24)[3:].any()


def test_a_calibration_for_other_layers_is_refused() -> None:
    other = BlockShape(dtype=torch.float32, tokens=TOKENS, layers=SHAPE.layers[:1])
    with pytest.raises(ValueError, match="other layers"):
        KvtcCodec(calibration(joint=True), shape=other, target=KvtcTarget())
    with pytest.raises(ValueError, match="block"):
        KvtcCodec(calibration(joint=True), shape=SHAPE, target=KvtcTarget(sinks=9))


def test_a_sample_is_taken() -> None:
    which = codec()
    parts = which.sample(blocks=4)
    assert decoded(which, which.encode(parts, index=1), parts).shape == (4, SHAPE.numbers)


def whole_chunks() -> list[bytearray]:
    """The first chunk of a sequence, which has sinks, and a longer one."""
    return [bytearray(b"".join(chunk(blocks, index=0, seed=blocks)[1])) for blocks in (1, 2)]


def test_mutated_chunks() -> None:
    """Refused, or decoded to so many numbers; a crash, a hang and a stray write are failures."""
    refused, decoded_ones = campaign(codec(limit=1e9), whole_chunks(), count=600, seed=1)
    assert refused > 500 and refused + decoded_ones == 600


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_chunks() -> None:
    assert campaign(codec(limit=1e9), whole_chunks(), count=200_000, seed=2)[0] > 150_000
