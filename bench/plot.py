"""Draw results.png: one panel a scenario, one bar a subject. Needs matplotlib (the extra `bench`); goes on without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure

_COLUMNS = 3
_PANEL_INCHES = (6.4, 0.34)


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
    if not panels:
        return "no results.png: there is nothing to draw"
    lines = -(-len(panels) // _COLUMNS)
    tallest = max(len(bars) for bars in panels.values())
    size = (_PANEL_INCHES[0] * _COLUMNS, (tallest * _PANEL_INCHES[1] + 1.0) * lines + 1)
    figure, axes = plt.subplots(lines, _COLUMNS, figsize=size, squeeze=False, layout="constrained")
    for axis, (key, bars) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, key, bars)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
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
    axis.bar_label(drawn, fmt="%g", fontsize=7, padding=2)
    axis.invert_yaxis()
    if min(values) > 0 and max(values) / min(values) > 30:
        axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.set_title(f"{scenario} [{unit}], {'more' if unit.endswith('/s') else 'less'} is better", fontsize=8)
    axis.tick_params(labelsize=7)
