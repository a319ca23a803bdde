"""The learning curve as a PNG: accuracy and loss on the watched rows after every round, beside the two baselines."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

from usufruct_server.demo.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOGETHER: Final = "#0b6e6e"
POOLED: Final = "#3b3b3b"
ALONE: Final = "#c2571a"
INK: Final = "#2b2b2b"
FAINT: Final = "#d9d9d6"


def draw(report: Report, path: Path) -> None:
    """Writes the picture to ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style: Any = {
        "font.size": 10.5,
        "axes.edgecolor": FAINT,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with plt.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.9), dpi=140)
        figure.subplots_adjust(left=0.065, right=0.975, top=0.77, bottom=0.2, wspace=0.2)
        _panel(left, report, "accuracy")
        _panel(right, report, "loss")
        figure.text(0.065, 0.93, report.title, fontsize=14, fontweight="bold")
        figure.text(0.065, 0.868, _subtitle(report), fontsize=10.5)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=10.5)
        figure.savefig(path)
        plt.close(figure)


def _subtitle(report: Report) -> str:
    return (
        f"{len(report.legs)} hospitals, {report.parameters:,} parameters, {len(report.curve)} rounds. Every hospital: "
        f"epsilon {report.epsilon:.2f} at delta {report.delta:g}. Test accuracy after the last round: "
        f"{report.test.accuracy:.3f}."
    )


def _panel(axes: Axes, report: Report, field: str) -> None:
    rounds = [point.round for point in report.curve]
    values = [getattr(point, field) for point in report.curve]
    pooled = getattr(report.pooled.watched, field)
    each: list[float] = [getattr(leg.alone.watched, field) for leg in report.legs]
    axes.axhline(
        pooled, color=POOLED, linewidth=1.6, linestyle=(0, (5, 3)), label="all rows in one place, no privacy"
    )
    axes.axhline(
        mean(each),
        color=ALONE,
        linewidth=1.6,
        linestyle=(0, (1.5, 2)),
        label="a hospital alone, same epsilon (mean)",
    )
    axes.plot(
        rounds,
        values,
        color=TOGETHER,
        linewidth=2.6,
        marker="o",
        markersize=4.2,
        label="together, with Usufruct",
    )
    axes.set_title(f"{field.capitalize()} on {report.watched}".split(" (")[0], loc="left", fontsize=11)
    axes.set_xlabel("round")
    axes.set_xlim(rounds[0] - 0.4, rounds[-1] + 0.4)
    axes.set_xticks(_ticks(rounds))
    _limits(axes, field, [*values, pooled], mean(each))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _ticks(rounds: list[int]) -> list[int]:
    step = max(1, len(rounds) // 5)
    return [rounds[0], *(number for number in rounds if number % step == 0 and number != rounds[0])]


def _limits(axes: Axes, field: str, shown: list[float], alone: float) -> None:
    """Room for the curve; a line of the lone hospitals that is far outside is named at the edge instead of squeezing it."""
    lowest, highest = min(shown), max(shown)
    if alone > highest + (highest - lowest):
        axes.annotate(
            f"a hospital alone: {alone:.2f} ↑",
            (0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            color=ALONE,
        )
    else:
        lowest, highest = min(lowest, alone), max(highest, alone)
    room = 0.08 * max(highest - lowest, 0.05)
    axes.set_ylim(
        max(0.0, lowest - room), min(1.005, highest + room) if field == "accuracy" else highest + room
    )
