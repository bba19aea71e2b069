"""The list of weights of a model, made tensor by tensor."""

from __future__ import annotations

from stepwell.plan.architecture import Component, WeightPart, WeightPrecision


class Parts:
    """Collects weights. `layers` copies of each unless said otherwise."""

    def __init__(self) -> None:
        self._found: list[WeightPart] = []

    def matrix(
        self,
        name: str,
        component: Component,
        rows: int,
        columns: int,
        *,
        copies: int,
        active: int | None = None,
        bias: bool = False,
        precision: WeightPrecision | None = None,
    ) -> None:
        """A linear layer's weight [rows, columns], that is [out, in], and its bias [rows]."""
        if not copies:
            return
        shape = (rows, columns)
        self._found.append(
            WeightPart(
                name=f"{name}.weight",
                component=component,
                shape=shape,
                copies=copies,
                active=active,
                linear=precision is None,
                precision=precision,
            )
        )
        if bias:
            self.numbers(f"{name}.bias", component, rows, copies=copies, active=active)

    def numbers(
        self,
        name: str,
        component: Component,
        *shape: int,
        copies: int,
        active: int | None = None,
        precision: WeightPrecision | None = None,
    ) -> None:
        """Numbers that are not quantized: norms, biases, tables."""
        if copies:
            self._found.append(
                WeightPart(
                    name=name,
                    component=component,
                    shape=shape,
                    copies=copies,
                    active=active,
                    precision=precision,
                )
            )

    def stacked(
        self, name: str, component: Component, rows: int, columns: int, *, copies: int, active: int
    ) -> None:
        """Matrices [rows, columns] of experts, which checkpoints and engines keep as one tensor."""
        if copies:
            self._found.append(
                WeightPart(
                    name=name,
                    component=component,
                    shape=(rows, columns),
                    copies=copies,
                    active=active,
                    linear=True,
                    stacked=True,
                )
            )

    def all(self) -> tuple[WeightPart, ...]:
        """What was collected."""
        return tuple(self._found)
