"""One picture: hit rate over capacity, or time to first token, by policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stepwell.base.errors import ConfigError
from stepwell.simulate.compare import Run


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw to a file whose suffix names the format. Raises ConfigError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib.", hint="pip install 'stepwell[bench]'", param="plot"
        ) from error
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    names = list(dict.fromkeys((run.result.policy, run.codec) for run in runs))
    for policy, codec in names:
        own = [r for r in runs if (r.result.policy, r.codec) == (policy, codec)]
        label = policy if codec == "raw" else f"{policy}, {codec}"
        at = [100.0 * (r.capacity or 0.0) for r in own]
        left.plot(at, [r.result.block_hit_rate for r in own], marker="o", label=label)
        right.plot(at, [r.result.saved_seconds for r in own], marker="o", label=label)
    left.set_ylabel("block hit rate")
    right.set_ylabel("prefill seconds saved")
    for axis in (left, right):
        axis.set_xlabel("capacity, % of distinct blocks")
        axis.set_ylim(bottom=0)
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
