"""Draw results.png: one panel a scenario, one bar a subject. Needs matplotlib (the extra `bench`); goes on without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure

_COLUMNS = 4
_PANEL_INCHES, _BAR_INCHES, _TITLE_INCHES = 5.6, 0.19, 0.6


def write_plot(path: Path, figures: Sequence[Figure], caption: str) -> str:
    """Write the picture; return a sentence about it."""
    try:
        import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        return "no results.png: matplotlib is not installed (pip install calico-engine[bench])"
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # type: ignore[import-not-found,unused-ignore]  # as above

    panels: dict[tuple[str, str], dict[str, float]] = {}
    for row in figures:
        panels.setdefault((row.scenario, row.unit), {})[row.subject] = row.median
    # One bar alone compares nothing.
    shown = [(key, bars) for key, bars in panels.items() if len(bars) > 1]
    if not shown:
        return "no results.png: there is nothing to compare"
    lines = [shown[at : at + _COLUMNS] for at in range(0, len(shown), _COLUMNS)]
    heights = [max(len(bars) for _, bars in line) * _BAR_INCHES + _TITLE_INCHES for line in lines]
    figure, axes = plt.subplots(
        len(lines),
        _COLUMNS,
        figsize=(_PANEL_INCHES * _COLUMNS, sum(heights) + _TITLE_INCHES),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (key, bars) in zip(axes.flat, shown, strict=False):
        axis.set_axis_on()
        _draw(axis, key, bars)
    figure.suptitle(caption.partition("\n")[0], fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return f"wrote {path}"


def _draw(axis: Any, key: tuple[str, str], bars: dict[str, float]) -> None:
    """Draw one scenario; what spans more than a factor of thirty gets a logarithmic scale."""
    scenario, unit = key
    names, values = list(bars), list(bars.values())
    colours = ["tab:green" if name.startswith("calico-engine") else "tab:gray" for name in names]
    drawn = axis.barh(names, values, color=colours)
    labels = [f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in values]
    axis.bar_label(drawn, labels, fontsize=7, padding=2)
    axis.invert_yaxis()
    if min(values) > 0 and max(values) / min(values) > 30:
        axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.set_title(f"{scenario} [{unit}], {'more' if unit.endswith('/s') else 'less'} is better", fontsize=8)
    axis.tick_params(labelsize=7)
