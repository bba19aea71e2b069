"""Which rows compete: those without children in the tier.

A row with children cannot go, and there may be many: whole prefixes whose ends are worth keeping. A
policy that meets one *parks* it, out of its order, until the last child has left the tier
(`Policy.uncover`). So a row is met once for each time that it is ordered anew or uncovered, however
many walks there are. Since it was the first in its order when it was parked, it comes back ahead of
what is there.
"""

from __future__ import annotations

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE


class Walk:
    """One walk over victims. A row that the caller leaves in place counts as gone for the rest of
    it, so that who only looks ahead sees a whole chain go, its end first."""

    def __init__(self, context: PolicyContext) -> None:
        self._parent = context.table.parent
        self._children = context.children
        self._passed: dict[int, int] = {}

    def covered(self, row: int) -> bool:
        """Whether children that this walk has not passed over keep the row in the tier."""
        return self._children[row] > self._passed.get(row, 0)

    def pass_over(self, row: int) -> int:
        """The row stays. Returns its parent if that is not covered any more, else NONE."""
        parent = self._parent[row]
        if parent == NONE:
            return NONE
        self._passed[parent] = self._passed.get(parent, 0) + 1
        return NONE if self.covered(parent) else parent
