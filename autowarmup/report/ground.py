"""The ground of the stability map: an image of the forecast loss, of how little is known, and of what breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, to_rgb

from autowarmup.report.boundary import Boundary
from autowarmup.report.variations import durations, varied
from autowarmup.schedule.schedule import Schedule
from autowarmup.study.forecast import Forecast

Array = np.ndarray[Any, np.dtype[np.float64]]

LOSSES = LinearSegmentedColormap.from_list("losses", colormaps["viridis"](np.linspace(0.0, 0.95, 64)))
"""Without viridis' brightest end, which can't be told from white."""
UNSTABLE = "#f6d3bf"
"""The colour over what breaks."""
CERTAIN, UNKNOWN = 0.3, 1.0
"""The doubt from which the forecast fades, and that at which it has faded most, to this share of white:"""
FADED = 0.85
ROWS, COLUMNS = 48, 48
"""Points of the image, from edge to edge."""
LEVELS = 9
"""Steps of the forecast loss between two lines of equal loss."""


@dataclass(frozen=True)
class Grid:
    """The points of a map, evenly spread over the picture: peaks, and durations as shares of the run in percent (below
    0 at the lower edge), each of shape ``(ROWS, COLUMNS)``."""

    peaks: Array
    shares: Array

    @classmethod
    def of(cls, axes: Axes) -> Self:
        """The grid of axes whose limits are set."""
        corners = axes.transAxes.transform([(0.0, height) for height in np.linspace(0.0, 1.0, ROWS)])
        shares = axes.transData.inverted().transform(corners)[:, 1]
        return cls(*np.meshgrid(np.geomspace(*axes.get_xlim(), COLUMNS), shares))

    def forecast(self, model: Forecast, usual: Schedule) -> tuple[Array, Array]:
        """The median final loss and the doubt of a schedule like ``usual`` at each point. Durations are whole steps:
        between two of them both are interpolated."""
        horizon = usual.horizon
        longest = min(round(self.shares[-1, 0] / 100.0 * horizon), horizon - 1)
        rows, peaks = durations(longest, ROWS), self.peaks[0]
        losses = model.losses([varied(usual, float(peak), steps) for steps in rows for peak in peaks])
        known = np.sqrt(np.array(rows) / horizon)
        wanted = np.sqrt(np.maximum(self.shares[:, 0], 0.0) / 100.0)

        def spread(values: Array) -> Array:
            columns = values.reshape(len(rows), COLUMNS).T
            return np.array([np.interp(wanted, known, column) for column in columns]).T

        return spread(losses.median), spread(losses.doubt)

    def chance(self, boundary: Boundary) -> Array:
        """How likely a schedule at each point is unstable."""
        return boundary.probability(self.peaks, np.maximum(self.shares, 0.0) / 100.0)


def norm_of(finals: Sequence[float], forecasts: Array | None = None) -> Normalize:
    """Colours for losses: logarithmic where they span much, and not stretched by a few very bad ones."""
    losses = np.array(finals)
    low, high = float(losses.min()), float(np.quantile(losses, 0.95 if len(losses) >= 10 else 1.0))
    if forecasts is not None:
        low, high = min(low, float(forecasts.min())), max(high, float(np.median(forecasts)))
    if high <= low:
        high = low + max(abs(low) * 1e-3, 1e-9)
    return LogNorm(low, high) if low > 0 and high / low > 5 else Normalize(low, high)


def draw_ground(axes: Axes, image: Array) -> None:
    """An image of shape ``(rows, columns, 3)`` behind everything, from edge to edge."""
    style: dict[str, Any] = {"extent": (0, 1, 0, 1), "origin": "lower", "aspect": "auto", "interpolation": "bilinear"}
    axes.imshow(image, transform=axes.transAxes, zorder=0, gid="ground", **style)


def draw_levels(axes: Axes, grid: Grid, losses: Array, norm: Normalize) -> None:
    """White lines of equal forecast loss."""
    levels = norm.inverse(np.linspace(0.0, 1.0, LEVELS + 1)[1:-1])
    style: dict[str, Any] = {"colors": "white", "linestyles": "solid", "linewidths": 0.8, "alpha": 0.7, "zorder": 0.1}
    axes.contour(grid.peaks, grid.shares, losses, levels=levels, **style)


def coloured(losses: Array, doubt: Array, norm: Normalize) -> Array:
    """The forecast as an image, faded to white where the trials say little."""
    colours = LOSSES(norm(np.clip(losses, norm.vmin, norm.vmax)))[..., :3]
    faded = FADED * np.clip((doubt - CERTAIN) / (UNKNOWN - CERTAIN), 0.0, 1.0)
    return _blended(colours, "white", faded)


def reddened(image: Array, chance: Array) -> Array:
    """The image under the colour of what breaks, as likely as it does."""
    return _blended(image, UNSTABLE, 0.9 * chance)


def _blended(image: Array, colour: str, share: Array) -> Array:
    return image * (1.0 - share[..., None]) + np.array(to_rgb(colour)) * share[..., None]
