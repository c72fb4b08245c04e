"""The courses of all contenders, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from examples.heterogeneous.comparing import Course

# Told apart by lightness, too, and by people who see no red or green (Okabe and Ito's colours).
_COLOURS: Final = {"fedavg": "#555555", "fedadam": "#0072b2", "fedyogi": "#e69f00", "fednova": "#009e73"}
# fedyogi follows fedadam so closely that it would hide it.
_DASHES: Final = {"fedyogi": (0, (4, 3))}
_LINE: Final = 0.055  # of the plot's height, a line of text
_LEAST_ACCURACY: Final = 0.5  # the first rounds come in from below rather than squeeze all that matters


def draw_courses(path: Path, courses: Sequence[Course], subtitle: str) -> None:
    """Write the plot: training loss and test accuracy by round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

    # Not pyplot: it would keep state, and look for a display.
    figure = Figure(figsize=(10.5, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
    for course in courses:
        name = course.contender.aggregator
        look = {"color": _COLOURS[name], "lw": 2.0, "ls": _DASHES.get(name, "-")}
        losses.plot(course.losses, **look)
        accuracies.plot(course.accuracies, **look)
    # Halving looks alike everywhere.
    losses.set_yscale("log", base=2)
    losses.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    losses.set_ylim(top=4)
    accuracies.set_ylim(_LEAST_ACCURACY, 1)
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _name_ends(losses, [(course, course.losses[-1], "{:.3f}") for course in courses])
    _name_ends(accuracies, [(course, course.accuracies[-1], "{:.1%}") for course in courses])
    losses.set_title("training loss over all devices", loc="left", fontsize=10)
    accuracies.set_title("test accuracy over all devices", loc="left", fontsize=10)
    for axes in (losses, accuracies):
        axes.set_xlabel("round")
        axes.set_xlim(0, max(1, len(courses[0].losses) - 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", which="major", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"synthetic(1, 1): {subtitle}", x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _name_ends(axes: Any, ends: Sequence[tuple[Course, float, str]]) -> None:
    """Each curve's name and last value beside its end, moved apart where they would overlap."""
    in_order = sorted(ends, key=lambda end: end[1])
    heights = [
        float(axes.transAxes.inverted().transform(axes.transData.transform((0, end)))[1]) for _, end, _ in in_order
    ]
    for (course, value, form), height in zip(in_order, _apart(heights), strict=True):
        name = course.contender.aggregator
        axes.annotate(
            f"{name} {form.format(value)}",
            (1.015, height),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            color=_COLOURS[name],
            annotation_clip=False,
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, none nearer to the next than a line of text, each moved as little as that takes."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2]) + _LINE > _bottom(groups[-1]):
            last = groups.pop()
            groups[-1] = groups[-1] + last
    return [_bottom(group) + _LINE * at for group in groups for at in range(len(group))]


def _bottom(group: Sequence[float]) -> float:
    return sum(group) / len(group) - _LINE * (len(group) - 1) / 2


def _top(group: Sequence[float]) -> float:
    return _bottom(group) + _LINE * (len(group) - 1)
