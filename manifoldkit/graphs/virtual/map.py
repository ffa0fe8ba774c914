"""A map of the links of a virtual node."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_weights(
    lat: ArrayLike,
    lon: ArrayLike,
    reads: ArrayLike,
    writes: ArrayLike,
    node: int,
    ax: Any = None,
    roads: ArrayLike | None = None,
) -> "Axes":
    """Scatter the sensors over the roads; color is the weight, shape the direction."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    lat, lon = np.asarray(lat, dtype=float), np.asarray(lon, dtype=float)
    reads, writes = np.asarray(reads), np.asarray(writes)
    if lat.shape != reads.shape or lon.shape != reads.shape:
        raise ValueError(
            f"lat, lon: expected shape {reads.shape}, found {lat.shape} and {lon.shape}"
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    top = max(reads.max(), writes.max(), np.finfo(float).tiny)
    if roads is not None:
        places = np.stack([lon, lat], 1)
        lines = LineCollection(places[np.asarray(roads).T], colors="0.85", lw=0.7)
        lines.set_zorder(0)
        ax.add_collection(lines)
    none = (reads <= 0) & (writes <= 0)
    ax.scatter(lon[none], lat[none], s=8, color="0.8", label="no link")
    points = None
    for weight, marker, label in (
        (writes, "o", "writes to the virtual node"),
        (reads, "^", "reads from it"),
    ):
        own = np.flatnonzero(weight > 0)
        own = own[np.argsort(weight[own])]  # the strongest on top
        points = ax.scatter(
            lon[own],
            lat[own],
            c=weight[own],
            marker=marker,
            s=12 + 36 * weight[own] / top,
            vmin=0,
            vmax=top,
            cmap="viridis_r",
            label=label,
        )
    ax.figure.colorbar(points, ax=ax, label="weight before normalization")
    ax.locator_params(nbins=5)
    ax.set_xlabel("longitude (degrees)")
    ax.set_ylabel("latitude (degrees)")
    ax.set_title(f"links of virtual node {node}")
    ax.set_aspect(1 / np.cos(np.radians(lat.mean())), adjustable="datalim")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8)
    return ax
