"""The brain's block books against a naive model, under random sequences of events."""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stepwell.base.prefix import Mark
from stepwell.cache.manager import CacheManager, Room

BLOCK = 4
BLOCKS = 12


class CacheMachine(RuleBasedStateMachine):
    """Admits, grows, commits and releases sequences over a tiny alphabet, so prefixes repeat.

    The naive model is the content of each block, as the engine would write it: a list of
    (position, token, tokens before). A prefix hit is right if the content says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = CacheManager(num_blocks=BLOCKS, block_size=BLOCK, namespace=b"test")
        self.content: dict[int, list[tuple]] = {b: [None] * BLOCK for b in range(BLOCKS)}
        self.tokens: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.tenants: dict[str, str] = {}
        self.marks: dict[str, tuple[Mark, ...]] = {}
        self.roots: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        self.count = 0

    def write(self, name: str, start: int, end: int) -> None:
        tokens, blocks = self.tokens[name], self.cache.blocks_of(name)
        for at in range(start, end):
            entry = (self.tenants[name], tuple(tokens[: at + 1]))
            self.content[blocks[at // BLOCK]][at % BLOCK] = entry

    def run_orders(self) -> None:
        for order in self.cache.take_orders():
            self.content[order.target] = list(self.content[order.source])
            self.cache.complete(order)

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        tenant=st.sampled_from(["", "a"]),
        label=st.sampled_from(["", "x", "y"]),
        start=st.integers(0, 12),
    )
    def admit(self, tokens: list[int], tenant: str, label: str, start: int) -> None:
        marks = (Mark(labels=(label,), start=start),) if label else ()
        name = f"s{self.count}"
        self.count += 1
        keys: list[bytes] = []
        match = self.cache.lookup(tokens, tenant=tenant, keys=keys)
        assert match.tokens < len(tokens)
        available = self.cache.pool.num_available
        room = self.cache.admit(
            name, match, tenant=tenant, tokens=len(tokens), keys=keys, marks=marks
        )
        if room is Room.NO_ROOM:
            assert self.cache.pool.num_available == available
            return
        self.tokens[name], self.tenants[name] = list(tokens), tenant
        self.marks[name] = marks
        self.run_orders()
        for at in range(match.tokens):
            block = self.cache.blocks_of(name)[at // BLOCK]
            expected = (tenant, tuple(tokens[: at + 1]))
            assert self.content[block][at % BLOCK] == expected, "a prefix hit on other content"
        self.computed[name] = match.tokens

    @precondition(lambda self: self.computed)
    @rule(data=st.data(), new=st.integers(1, 6))
    def compute(self, data: st.DataObject, new: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.computed)))
        tokens, start = self.tokens[name], self.computed[name]
        while len(tokens) < start + new:
            tokens.append(data.draw(st.integers(0, 1)))
        if self.cache.grow(name, tokens=start + new) is Room.GRANTED:
            self.write(name, start, start + new)
            self.computed[name] = start + new
            self.cache.commit(name, tokens, computed=start + new)
            keys = self.cache.published_keys(name)
            for mark in self.marks[name]:
                for label in mark.labels:
                    self.roots[self.tenants[name], label].update(keys[mark.start // BLOCK :])

    @precondition(lambda self: self.computed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.computed)))
        self.cache.release(name)
        for book in (self.tokens, self.computed, self.tenants, self.marks):
            book.pop(name)
        self.clean()

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=30),
        name=st.sampled_from("pq"), worth=st.floats(0, 9),
    )  # fmt: skip
    def pin(self, tokens: list[int], name: str, worth: float) -> None:
        available = self.cache.pool.num_available
        keys = self.cache.keys_of(tokens, tenant="")
        self.cache.pool.pin(name, keys, worth=worth)
        assert self.cache.pool.num_available == available, "pins make nobody wait"

    @rule(name=st.sampled_from("pq"))
    def unpin(self, name: str) -> None:
        self.cache.pool.unpin(name)

    @rule(tenant=st.sampled_from(["", "a"]), label=st.sampled_from("xy"))
    def forget(self, tenant: str, label: str) -> None:
        """Nothing of it is found, neither now nor when those that hold it go on."""
        self.cache.forget(tenant, (label,))
        for key in self.roots.pop((tenant, label), ()):
            assert not self.cache.pool.find([key])
        for name, marks in self.marks.items():
            for mark in marks:
                if self.tenants[name] == tenant and label in mark.labels:
                    assert len(self.cache.published_keys(name)) <= mark.start // BLOCK
        self.clean()

    def clean(self) -> None:
        blocks = self.cache.pool.take_unclean()
        for block in blocks:
            self.content[block] = [None] * BLOCK
        self.cache.pool.cleaned(blocks)

    @rule()
    def clear(self) -> None:
        self.cache.pool.clear_cached()
        assert self.cache.pool.num_cached == 0

    @invariant()
    def books_are_right(self) -> None:
        self.cache.check()

    @invariant()
    def no_block_is_overwritten(self) -> None:
        for name, computed in self.computed.items():
            blocks = self.cache.blocks_of(name)
            for at in range(computed):
                expected = (self.tenants[name], tuple(self.tokens[name][: at + 1]))
                assert self.content[blocks[at // BLOCK]][at % BLOCK] == expected


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
