"""The plot of ``make bench-utility``: a panel a task, epsilon along, a line an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

INK: Final = "#2b2b2b"
FAINT: Final = "#d9d9d6"
PANELS: Final = {
    "heart": "Heart disease, 4 hospitals: AUC, %",
    "adult": "Adult, 10 holders of 300 rows: AUC, %",
    "fashion": "Fashion-MNIST, 10 holders: accuracy, %",
}
LINES: Final = {
    "pooled": ("all rows in one place, no privacy", "#3b3b3b", (0, (5, 3)), ""),
    "central": ("central DP", "#8a6fb0", "-", "s"),
    "distributed": ("distributed noise", "#0b6e6e", "-", "o"),
    "local": ("local noise", "#c9952b", "-", "^"),
    "alone": ("each holder alone", "#c2571a", (0, (1.5, 2)), "v"),
}
ASIDE: Final = {"central": -0.05, "distributed": 0.05}
"""So that error bars that would lie upon one another stand side by side."""


def draw(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]], path: Path) -> None:
    """Writes the picture.

    Args:
        curves: by task and arm: epsilon, mean and standard deviation, in hundredths.
        path: its suffix says what kind of picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style: Any = {"font.size": 10.5, "axes.edgecolor": FAINT, "text.color": INK, "axes.labelcolor": INK,
                  "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "usufruct"}  # fmt: skip
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            1,
            len(curves),
            figsize=(1.6 + 4.4 * len(curves), 4.6),
            dpi=140,
            squeeze=False,
            layout="constrained",
        )
        for axes, (task, arms) in zip(panels[0], curves.items(), strict=True):
            for arm, points in arms.items():
                label, color, dashes, marker = LINES[arm]
                epsilons = sorted({epsilon for epsilon, _, _ in points})
                at = [epsilons.index(epsilon) + ASIDE.get(arm, 0.0) for epsilon, _, _ in points]
                if arm == "pooled":
                    axes.axhline(points[0][1], color=color, linewidth=1.6, linestyle=dashes, label=label)
                    continue
                axes.errorbar(
                    at,
                    [mean for _, mean, _ in points],
                    [deviation for _, _, deviation in points],
                    color=color,
                    linestyle=dashes,
                    linewidth=2.2 if arm == "distributed" else 1.6,
                    marker=marker,
                    markersize=5,
                    capsize=2.5,
                    label=label,
                )
            ticks = sorted({epsilon for points in arms.values() for epsilon, _, _ in points})
            axes.set_xticks(range(len(ticks)), [f"{epsilon:g}" for epsilon in ticks])
            axes.set_xlim(-0.3, len(ticks) - 0.7)
            axes.set_xlabel("epsilon of every holder's rows, at delta 1e-5")
            axes.set_title(PANELS[task], loc="left", fontsize=11)
            axes.grid(axis="y", color=FAINT, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5 if len(curves) > 1 else 2, frameon=False
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
