"""The brain by small integers: no torch, no model."""

from __future__ import annotations

import pytest

from stepwell.cache.blocks import BlockPool
from stepwell.cache.keys import extend_keys, root_key
from stepwell.cache.manager import CacheManager, CopyBlock, PrefixMatch, Room


def make(blocks: int = 8, size: int = 4, **kwargs: object) -> CacheManager:
    return CacheManager(num_blocks=blocks, block_size=size, namespace=b"n", **kwargs)


def run(cache: CacheManager, name: str, tokens: list[int], tenant: str = "") -> PrefixMatch:
    """Admit and compute a whole sequence."""
    keys: list[bytes] = []
    match = cache.lookup(tokens, tenant=tenant, keys=keys)
    room = cache.admit(name, match, tenant=tenant, tokens=len(tokens), keys=keys)
    assert room is Room.GRANTED
    for order in cache.take_orders():
        cache.complete(order)
    cache.commit(name, tokens, computed=len(tokens))
    return match


def test_equal_prefix_shares_blocks_until_the_first_difference() -> None:
    cache = make()
    run(cache, "a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    match = run(cache, "b", [1, 2, 3, 4, 5, 6, 7, 0, 9])
    assert match.tokens == 4
    assert cache.blocks_of("a")[0] == cache.blocks_of("b")[0]
    assert cache.blocks_of("a")[1] != cache.blocks_of("b")[1]
    assert cache.pool.num_used == 5


def test_wholly_cached_prompt_copies_its_last_block() -> None:
    cache = make()
    run(cache, "a", [1, 2, 3, 4, 5, 6, 7, 8])
    cache.release("a")
    keys: list[bytes] = []
    match = cache.lookup([1, 2, 3, 4, 5, 6, 7, 8], tenant="", keys=keys)
    assert (match.tokens, match.copy_last) == (7, True)
    cache.admit("b", match, tenant="", tokens=8, keys=keys)
    (order,) = cache.take_orders()
    assert order == CopyBlock(source=match.blocks[1], target=cache.blocks_of("b")[1])
    cache.check()
    cache.complete(order)
    cache.check()


def test_tenants_never_share() -> None:
    cache = make()
    run(cache, "a", [1, 2, 3, 4, 5], tenant="x")
    assert cache.lookup([1, 2, 3, 4, 5], tenant="y", keys=[]).tokens == 0
    assert root_key(b"na", "me") != root_key(b"n", "ame")


def test_keys_name_everything_before_them() -> None:
    keys_a: list[bytes] = []
    keys_b: list[bytes] = []
    extend_keys(keys_a, [1, 2, 3, 4], count=2, block_size=2, root=b"r")
    extend_keys(keys_b, [9, 2, 3, 4], count=2, block_size=2, root=b"r")
    assert keys_a[1] != keys_b[1]


def test_suffix_is_evicted_before_its_prefix() -> None:
    cache = make(blocks=4)
    run(cache, "a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    cache.release("a")
    run(cache, "b", [0] * 9)
    cache.release("b")
    assert cache.lookup([1, 2, 3, 4, 5], tenant="", keys=[]).tokens == 4
    assert cache.lookup([1, 2, 3, 4, 5, 6, 7, 8, 9], tenant="", keys=[]).tokens == 4


def test_what_returns_after_its_eviction_is_counted() -> None:
    pool = BlockPool(2)
    for key in (b"a", b"b", b"c"):
        (block,) = pool.allocate(1)
        pool.publish(block, key, None)
        pool.release([block])
    pool.count_returns([b"a", b"b", b"x"])
    assert pool.returns == 1, "a was evicted, b is still there"
    for key in (b"d%d" % number for number in range(10)):
        (block,) = pool.allocate(1)
        pool.publish(block, key, None)
        pool.release([block])
    pool.count_returns([b"a"])
    assert pool.returns == 1, "four keys are remembered for each block"


def test_used_blocks_are_never_evicted() -> None:
    cache = make(blocks=3)
    run(cache, "a", [1, 2, 3, 4, 5, 6, 7, 8])
    match = cache.lookup([0] * 8, tenant="", keys=[])
    assert cache.admit("b", match, tenant="", tokens=8, keys=[]) is Room.NO_ROOM
    assert cache.grow("a", tokens=12) is Room.GRANTED
    assert cache.grow("a", tokens=13) is Room.NO_ROOM


def test_a_block_being_computed_is_awaited() -> None:
    cache = make()
    keys: list[bytes] = []
    match = cache.lookup([1, 2, 3, 4, 5], tenant="", keys=keys)
    cache.admit("a", match, tenant="", tokens=5, keys=keys)
    assert cache.lookup([1, 2, 3, 4, 6], tenant="", keys=[]).awaited
    cache.release("a")
    assert not cache.lookup([1, 2, 3, 4, 6], tenant="", keys=[]).awaited


def test_without_prefix_caching_nothing_is_found() -> None:
    cache = make(prefix_caching=False)
    run(cache, "a", [1, 2, 3, 4, 5])
    assert cache.lookup([1, 2, 3, 4, 5], tenant="", keys=[]) == PrefixMatch()
    cache.release("a")
    assert cache.pool.num_cached == 0


def test_waste_counts_empty_slots() -> None:
    cache = make()
    run(cache, "a", [1, 2, 3, 4, 5])
    assert cache.unused_slots() == 3


def test_check_finds_a_double_release() -> None:
    cache = make()
    run(cache, "a", [1, 2, 3, 4, 5])
    blocks = list(cache.blocks_of("a"))
    cache.release("a")
    with pytest.raises(AssertionError, match="released twice"):
        cache.pool.release(blocks)
