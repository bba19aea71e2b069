"""The record of every automatic choice: what was chosen, why, and what came of it.

`--explain`, the metrics, the benches and the doctor all read this one record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Decision:
    """One automatic choice.

    `predicted` and `actual` are in the unit that `because` names (seconds unless it says so) and
    stay None where nothing was predicted or measured.
    """

    name: str
    value: object
    because: str
    predicted: float | None = None
    actual: float | None = None

    def with_actual(self, actual: float) -> Decision:
        """The same decision, with what was measured afterwards."""
        return replace(self, actual=actual)

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "name": self.name,
            "value": self.value if isinstance(self.value, int | float) else str(self.value),
            "because": self.because,
            "predicted": self.predicted,
            "actual": self.actual,
        }
