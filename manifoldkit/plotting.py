"""Figures of the notebooks and reports: one palette, one style.

matplotlib is imported inside the functions; they return a ``Figure`` that needs no
display.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from sklearn.model_selection._search import BaseSearchCV

    from manifoldkit.spd import DelayEmbedding

#: Colors that stay apart for the common forms of color blindness (Okabe and Ito).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "grid.color": "#e5e5e5",
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 10,
    "legend.frameon": False,
}


def _matplotlib() -> ModuleType:
    try:
        import matplotlib
    except ImportError:
        from manifoldkit.exceptions import MissingExtraError

        raise MissingExtraError("plotting", "matplotlib", "viz") from None
    return matplotlib


def _parameters() -> dict[str, Any]:
    cycle = _matplotlib().cycler(color=list(PALETTE))
    return {**_STYLE, "axes.prop_cycle": cycle}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the look of the package's figures, inside a ``with`` block.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import matplotlib
    >>> from manifoldkit.plotting import style
    >>> with style():
    ...     matplotlib.rcParams["axes.titleweight"]
    'bold'
    """
    with _matplotlib().rc_context(_parameters()):
        yield


def use_style() -> None:
    """Make the look of the package's figures the default of this session.

    Examples
    --------
    >>> import matplotlib
    >>> with matplotlib.rc_context():
    ...     use_style()
    ...     matplotlib.rcParams["axes.titleweight"]
    'bold'
    """
    _matplotlib().rcParams.update(_parameters())


def _figure(width: float, height: float, columns: int = 1) -> "tuple[Figure, Any]":
    """Return a figure that needs no display, and its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


@style()
def plot_scores(rows: Sequence[Mapping[str, Any]], title: str = "") -> "Figure":
    """Draw accuracies with intervals against chance, one panel a task.

    Parameters
    ----------
    rows : sequence of dict
        With the keys ``task``, ``pipeline``, ``accuracy``, ``low``, ``high``,
        ``chance``, ``chance_bound`` and ``n``.
    title : str
        Heading of the figure.

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> row = {"task": "hands", "pipeline": "MDM", "accuracy": 0.8, "low": 0.7,
    ...        "high": 0.9, "chance": 0.5, "chance_bound": 0.6, "n": 60}
    >>> figure = plot_scores([row], "One person")
    >>> figure.axes[0].get_title()
    'hands (n = 60)'
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["pipeline"] for row in rows))
    height = 1.3 + 0.36 * len(names)
    figure, axes = _figure(3.6 * len(tasks) + 2.2, height, len(tasks))
    for column, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
        part = {row["pipeline"]: row for row in rows if row["task"] == task}
        some = next(iter(part.values()))
        ax.axvspan(some["chance"], some["chance_bound"], color="#eeeeee", lw=0)
        ax.axvline(some["chance"], color="#888888", ls="--", lw=1)
        for position, name in enumerate(names):
            if name not in part:
                ax.text(some["chance"], position, "  does not apply", va="center")
                continue
            row, color = part[name], PALETTE[position % len(PALETTE)]
            ax.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2)
            ax.plot(row["accuracy"], position, "o", color=color, ms=7)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
        ax.set_xlim(min(0.3, *(r["low"] for r in part.values())) - 0.02, 1.02)
        ax.set_title(f"{task} (n = {some['n']})")
        ax.set_xlabel("accuracy")
    figure.suptitle(title or "Accuracy with 95 % interval; gray: what chance reaches")
    return figure


@style()
def plot_order_lag_map(
    scores: "ArrayLike | BaseSearchCV | DelayEmbedding",
    orders: Sequence[int] | None = None,
    lags: Sequence[int] | None = None,
    title: str = "",
    chance: float | None = None,
) -> "Figure":
    """Draw the accuracy of each order (rows) and lag (columns) as a heat map.

    Parameters
    ----------
    scores : array-like, shape (n_orders, n_lags), or a fitted search
        Accuracies; NaN where nothing was computed. Or what chose order and lag: a
        fitted ``GridSearchCV`` over :func:`~manifoldkit.spd.make_acm_classifier`, or
        what :func:`~manifoldkit.spd.select_delay_embedding` returns for "grid"; the
        choice is ringed.
    orders, lags : sequence of int
        Labels of rows and columns; a search knows them.
    title : str
        Heading.
    chance : float, optional
        Lower end of the color scale.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    TypeError, ValueError
        Scores without orders and lags, or of another shape; a search that is not
        fitted, or not over order and lag.

    Examples
    --------
    >>> figure = plot_order_lag_map([[0.5, 0.6], [0.7, 0.8]], [1, 2], [4, 8])
    >>> figure.axes[0].get_ylabel()
    'order'
    """
    values: Any = scores
    chosen = None
    if orders is None and lags is None:
        values, orders, lags, chosen = _searched(scores)
    elif orders is None or lags is None:
        raise TypeError("orders, lags: expected both of them, or neither for a search")
    if np.shape(values) != (len(orders), len(lags)):
        raise ValueError(
            f"scores: expected shape ({len(orders)}, {len(lags)}), one score an order "
            f"and lag, found shape {np.shape(values)}"
        )
    figure, axes = _figure(1.6 + 0.75 * len(lags), 1.4 + 0.5 * len(orders))
    draw_order_lag_map(axes[0], values, orders, lags, title, chance)
    if chosen is not None:
        place = list(lags).index(chosen[1]), list(orders).index(chosen[0])
        axes[0].plot(*place, "o", mfc="none", mec=PALETTE[1], mew=2, ms=34)
    return figure


def _searched(search: Any) -> tuple[np.ndarray, list[int], list[int], tuple[int, int]]:
    """Return scores, orders, lags and the choice of a fitted search."""
    maps = [c for c in getattr(search, "curves", {}).values() if len(c) == 3]
    if maps:
        rows, columns, scores = maps[0]
        return scores, rows.tolist(), columns.tolist(), (search.order, search.lag)
    if hasattr(search, "curves"):
        raise ValueError(
            f"scores: a choice by {search.method!r} has no score of each order and "
            "lag, expected one by 'grid'"
        )
    if not hasattr(search, "cv_results_"):
        raise TypeError(
            "scores: expected scores with orders and lags, a fitted GridSearchCV or "
            f"the result of select_delay_embedding, found {type(search).__name__}"
            + (", which is not fitted" if hasattr(search, "param_grid") else "")
        )
    every, means = search.cv_results_["params"], search.cv_results_["mean_test_score"]
    fixed = search.best_estimator_.get_params()
    names = [_step_of(key) for params in every for key in params]
    step = next((name for name in names if name is not None), None)
    if step is None:
        raise ValueError(
            f"scores: expected a search over order or lag, found one over {every[0]}"
        )
    keys = [f"{step}order", f"{step}lag"]
    cells: dict[tuple[int, int], float] = {}
    for params, mean in zip(every, means, strict=True):
        order, lag = (int(params.get(key, fixed[key])) for key in keys)
        # of further settings the best: what the search would choose there
        cells[order, lag] = max(float(mean), cells.get((order, lag), -np.inf))
    orders, lags = (sorted({cell[i] for cell in cells}) for i in range(2))
    scores = np.full((len(orders), len(lags)), np.nan)
    for (order, lag), mean in cells.items():
        row = scores[orders.index(order)]
        if order == 1:  # the lag of a single copy does nothing
            row[:] = mean
        row[lags.index(lag)] = mean
    best = fixed[keys[0]], fixed[keys[1]]
    return scores, orders, lags, best


def _step_of(key: str) -> str | None:
    """Return the prefix of a setting ``...order`` or ``...lag``, else None."""
    step, _, name = key.rpartition("__")
    return (f"{step}__" if step else "") if name in ("order", "lag") else None


@style()
def plot_order_lag_maps(maps: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draw :func:`plot_order_lag_map` for several tasks side by side.

    All panels share one color scale, so that a trial more or less in an easy task does
    not look like a large effect.

    Parameters
    ----------
    maps : dict of str to dict
        Heading, and ``scores``, ``orders``, ``lags`` of each panel.

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> panel = {"scores": [[0.5, 0.6]], "orders": [2], "lags": [4, 8]}
    >>> figure = plot_order_lag_maps({"hands": panel, "feet": panel})
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['hands', 'feet']
    """
    some = next(iter(maps.values()))
    width = (1.8 + 0.6 * len(some["lags"])) * len(maps)
    figure, axes = _figure(width, 1.6 + 0.45 * len(some["orders"]), len(maps))
    everything = np.concatenate([np.ravel(entry["scores"]) for entry in maps.values()])
    limits = _limits(everything)
    for ax, (title, entry) in zip(axes, maps.items(), strict=True):
        image = _draw_map(ax, entry["scores"], entry["orders"], entry["lags"], limits)
        ax.set_title(title)
    figure.colorbar(image, ax=list(axes), label="accuracy", shrink=0.9, pad=0.02)
    return figure


def draw_order_lag_map(
    ax: "Axes",
    scores: ArrayLike,
    orders: Sequence[int],
    lags: Sequence[int],
    title: str = "",
    chance: float | None = None,
) -> None:
    """Draw :func:`plot_order_lag_map` into given axes.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> draw_order_lag_map(ax, [[0.5, 0.6]], [2], [4, 8], "hands")
    >>> ax.get_title()
    'hands'
    """
    limits = _limits(scores, chance)
    image = _draw_map(ax, scores, orders, lags, limits)
    ax.set_title(title)
    ax.figure.colorbar(image, ax=ax, label="accuracy", shrink=0.9)


def _limits(scores: ArrayLike, chance: float | None = None) -> tuple[float, float]:
    """Range of the colors, wide enough that one trial does not look like an effect."""
    known = np.asarray(scores, dtype=float)
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    if chance is not None:
        low = min(low, chance)
    return min(low, high - 0.15), high


def _draw_map(
    ax: "Axes",
    scores: ArrayLike,
    orders: Sequence[int],
    lags: Sequence[int],
    limits: tuple[float, float],
) -> "AxesImage":
    """Draw the cells with their values; return the image for a color bar."""
    values = np.asarray(scores, dtype=float)
    image = ax.imshow(
        values, cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto"
    )
    ax.grid(False)
    ax.set_xticks(range(len(lags)), map(str, lags))
    ax.set_yticks(range(len(orders)), map(str, orders))
    ax.set(xlabel="lag (samples)", ylabel="order")
    middle = sum(limits) / 2
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            color = "white" if values[i, j] < middle else "black"
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color)
    return image


def tangent_plane(
    X: np.ndarray, random_state: int | np.random.RandomState | None = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return two principal components of the tangent vectors at the mean.

    Parameters
    ----------
    X : ndarray, shape (n_matrices, n, n)
        SPD matrices.
    random_state : int, RandomState or None, default=0
        Randomness of the principal component analysis.

    Returns
    -------
    points : ndarray, shape (n_matrices, 2)
    explained : ndarray, shape (2,)
        Share of the variance in each component.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((9, 3, 20))
    >>> points, explained = tangent_plane(x @ x.swapaxes(1, 2))
    >>> points.shape, explained.shape
    ((9, 2), (2,))
    """
    from pyriemann.tangentspace import TangentSpace
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=random_state)
    points = pca.fit_transform(TangentSpace(metric="riemann").fit_transform(X))
    return points, pca.explained_variance_ratio_


@style()
def plot_tangent_plane(
    views: Mapping[str, np.ndarray], y: ArrayLike, title: str = ""
) -> "Figure":
    """Draw 2-D views of SPD matrices side by side, colored by class.

    Parameters
    ----------
    views : dict of str to ndarray, shape (n_matrices, n, n)
        Heading and matrices of each panel.
    y : array-like, shape (n_matrices,)
        Classes.
    title : str
        Heading of the figure.

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((9, 3, 20))
    >>> figure = plot_tangent_plane({"all": x @ x.swapaxes(1, 2)}, np.arange(9) % 2)
    >>> figure.axes[0].get_title()
    'all'
    """
    figure, axes = _figure(3.9 * len(views), 3.5, len(views))
    for ax, (heading, X) in zip(axes, views.items(), strict=True):
        draw_tangent_plane(ax, X, y, heading)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    if title:
        figure.suptitle(title)
    return figure


def draw_tangent_plane(
    ax: "Axes", X: np.ndarray, y: ArrayLike, title: str = ""
) -> None:
    """Draw one panel of :func:`plot_tangent_plane` into given axes.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> x = np.random.default_rng(0).standard_normal((9, 3, 20))
    >>> draw_tangent_plane(ax, x @ x.swapaxes(1, 2), np.arange(9) % 2)
    >>> len(ax.collections)
    2
    """
    points, explained = tangent_plane(X)
    labels = np.asarray(y)
    for k, name in enumerate(np.unique(labels)):
        label = str(name).replace("_", " ")  # as one reads it
        color, marker = PALETTE[k % len(PALETTE)], "osD^vP"[k % 6]
        x, z = points[labels == name].T
        ax.scatter(x, z, label=label, color=color, marker=marker, s=26)
    ax.set_xlabel(f"component 1 ({explained[0]:.0%} of variance)")
    ax.set_ylabel(f"component 2 ({explained[1]:.0%})")
    ax.set_title(title)
