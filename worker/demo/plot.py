"""accuracy.png: the federated model by round, against the one trained on all data in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from worker.demo.errors import DemoNeedsPackage

_FEDERATED: Final = "#1f6f8b"
_CENTRAL: Final = "#c8553d"


def draw_accuracy(
    path: Path, federated: Sequence[float], central: Sequence[float], *, margin: float, participants: int, title: str
) -> None:
    """Write the plot; both series begin before the first round. Raises: DemoNeedsPackage."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise DemoNeedsPackage("matplotlib") from error
    # Not pyplot: it would keep state, and look for a display.
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rounds = range(len(federated))
    goal = central[-1]
    axes.axhspan(goal - margin, 1.0, color=_CENTRAL, alpha=0.07, lw=0)
    axes.axhline(goal - margin, color=_CENTRAL, lw=0.8, ls=(0, (2, 3)))
    axes.plot(rounds, central, color=_CENTRAL, lw=1.6, ls="--", label=f"central: all data in one place, {goal:.4f}")
    axes.plot(
        rounds,
        federated,
        color=_FEDERATED,
        lw=2.2,
        marker="o",
        ms=4.5,
        label=f"federated: {participants} participants, {federated[-1]:.4f}",
    )
    axes.annotate(
        f"to reach: central − {margin:g}",
        (0.99, goal - margin),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color=_CENTRAL,
    )
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("round (per round, both make as many passes over their data)")
    axes.set_ylabel("accuracy on held-out digits")
    axes.set_xlim(0, max(1, len(federated) - 1) * 1.01)
    # The first model knows nothing: its curve comes in from below rather than squeeze all that matters.
    axes.set_ylim(max(0.0, min(*federated[1:], *central[1:]) - 0.05), 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, bbox_to_anchor=(1.0, 0.08))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
