r"""Delay embeddings of one trial by nearest neighbors and mutual information.

Signals are NumPy arrays (n_channels, n_times), standardized, without flat channels.
Trials are short, so neighbors are found from a distance table between sampled reference
points and all points, which grows with the embedding at one coordinate a step: that is
cheaper than a tree a step, and a Theiler window is a mask.
"""

from typing import NamedTuple

import numpy as np

# Differences under this are quantized repeats of a value: a floor keeps logs finite.
_FLOOR = 1e-20
# Logs are taken of products of this many differences; 8 floors stay above underflow.
# One log a difference takes 1.9 times as long ("mdop" of
# benchmarks/embedding_selection.py).
_LOG_GROUP = 8


def standardize(x: np.ndarray) -> np.ndarray:
    """Return the channels that vary, with zero mean and unit variance.

    A channel that holds NaN does not count as one that varies.
    """
    x = x[x.max(-1) > x.min(-1)].astype(np.float64)
    # a power of two changes no digit, and keeps squares inside the range
    x = x / np.exp2(np.frexp(np.abs(x).max(-1, keepdims=True, initial=0))[1])
    x = x - x.mean(-1, keepdims=True)
    return x / x.std(-1, keepdims=True)


def mutual_information(x: np.ndarray, delays, n_bins: int | None = None) -> np.ndarray:
    r"""Self mutual information of each channel at the given delays, in nats.

    .. math:: I(\tau) = \sum_{a,b} p_{ab}(\tau) \log \frac{p_{ab}(\tau)}{p_a p_b}

    over ``n_bins`` bins of equal population, after Fraser and Swinney (1986).

    Parameters
    ----------
    x : ndarray, shape (n_channels, n_times)
        Signals.
    delays : sequence of int
        Non-negative delays under ``n_times``, in samples.
    n_bins : int, optional
        Default: the cube root of ``n_times``, at least 4 and at most 16.

    Returns
    -------
    ndarray, shape (n_channels, n_delays)

    Examples
    --------
    >>> t = np.arange(400)
    >>> information = mutual_information(np.sin(t / 4)[None], [0, 6])
    >>> bool(information[0, 0] > information[0, 1])
    True
    """
    n_channels, n_times = x.shape
    if n_bins is None:
        n_bins = int(np.clip(round(n_times ** (1 / 3)), 4, 16))
    rank = x.argsort(-1, kind="stable").argsort(-1, kind="stable")
    code = rank * n_bins // n_times
    offset = np.arange(n_channels)[:, None] * n_bins**2
    out = np.empty((n_channels, len(delays)))
    for k, d in enumerate(delays):
        n = n_times - d
        joint = np.bincount(
            (offset + code[:, :n] * n_bins + code[:, d:]).ravel(),
            minlength=n_channels * n_bins**2,
        ).reshape(n_channels, n_bins, n_bins)
        p = joint / n
        independent = p.sum(2, keepdims=True) * p.sum(1, keepdims=True)
        ratio = np.where(joint > 0, p, 1) / np.where(joint > 0, independent, 1)
        out[:, k] = (p * np.log(ratio)).sum((1, 2))
    return out


def first_minimum(curve: np.ndarray) -> int | None:
    """Return the index of the first inner local minimum, or None."""
    inner = (curve[1:-1] < curve[:-2]) & (curve[1:-1] <= curve[2:])
    return int(np.argmax(inner)) + 1 if inner.any() else None


def theiler_window(x: np.ndarray, max_delay: int) -> int:
    """Largest first minimum over channels of the self mutual information."""
    curves = mutual_information(x, range(max_delay + 1))
    minima = [first_minimum(c) for c in curves]
    return max(max_delay if m is None else m for m in minima)


class MDOPEmbedding(NamedTuple):
    """Delays and channels of one trial's embedding, with the curves that chose them.

    Attributes
    ----------
    delays, channels : list of int
        One coordinate ``x[channel, t + delay]`` each; the first delay is 0.
    theiler : int
        Window in samples.
    beta : ndarray, shape (max_delay + 1,)
        First cycle's statistic, largest over channels.
    false_neighbors : list of float
        Fraction after each cycle.
    """

    delays: list[int]
    channels: list[int]
    theiler: int
    beta: np.ndarray
    false_neighbors: list[float]


def _log_stretch(windows: np.ndarray, at: np.ndarray, neighbor: np.ndarray):
    """Mean log10 of |x(i + t) - x(j + t)|: one value a channel and delay."""
    gap = at - windows[:, neighbor]
    np.abs(gap, out=gap)
    np.maximum(gap, _FLOOR, out=gap)
    n_channels, n, n_delays = gap.shape
    whole = n - n % _LOG_GROUP
    shape = (n_channels, whole // _LOG_GROUP, _LOG_GROUP, n_delays)
    grouped = gap[:, :whole].reshape(shape)
    product = grouped[:, :, 0].copy()
    for k in range(1, _LOG_GROUP):
        product *= grouped[:, :, k]
    total = np.log10(product).sum(1) + np.log10(gap[:, whole:]).sum(1)
    return total / n


def _nearest(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearest neighbors and their distances from a table of squares."""
    neighbor = table.argmin(1)
    distance = np.sqrt(table[np.arange(len(table)), neighbor])
    return neighbor, np.maximum(distance, _FLOOR)


def mdop_embedding(
    x: np.ndarray,
    rng: np.random.RandomState,
    *,
    max_delay: int = 50,
    max_cycles: int = 50,
    threshold: float = 0.05,
    stretch: float = 2.0,
    n_reference: int = 200,
) -> MDOPEmbedding:
    r"""Embed one trial by maximizing derivatives on projection (MDOP).

    Each cycle adds the coordinate (delay t, channel s) of the largest

    .. math:: \beta(t) = \Big\langle \log_{10}
              \frac{|s(i+t) - s(j(i)+t)|}{\|Y_i - Y_{j(i)}\|} \Big\rangle_i

    where j(i) is the nearest neighbor of i in the embedding so far, further off in time
    than the Theiler window; the first cycle tries every channel as start. It ends when
    the fraction of points whose neighbor distance grew more than ``stretch`` times is
    at most ``threshold``, or grew; the coordinate added last is then not kept.

    Parameters
    ----------
    x : ndarray, shape (n_channels, n_times)
        Standardized signals.
    rng : RandomState
        Draws the reference points.
    max_delay : int, default=50
        Candidate delays are 0..max_delay.
    max_cycles : int, default=50
        Largest number of coordinates.
    threshold, stretch : float
        Limits that define false nearest neighbors.
    n_reference : int, default=200
        Points i that the mean runs over; their neighbors are sought among all points.

    Returns
    -------
    MDOPEmbedding

    References
    ----------
    .. [1] Nichkawde, "Optimal state-space reconstruction using derivatives on projected
           manifold", Phys. Rev. E 87, 022905, 2013.
    """
    n_channels, n_times = x.shape
    n = n_times - max_delay
    window = min(theiler_window(x, max_delay), n // 4)
    reference = np.sort(rng.permutation(n)[:n_reference])
    near = np.abs(reference[:, None] - np.arange(n)) <= window
    windows = np.lib.stride_tricks.sliding_window_view(x, max_delay + 1, axis=1)
    at = windows[:, reference]

    def squared_gaps(channel, delay):
        s = x[channel, delay : delay + n]
        return np.square(s[reference, None] - s)

    def beta(table):
        neighbor, distance = _nearest(table)
        return _log_stretch(windows, at, neighbor) - np.log10(distance).mean()

    best = -np.inf
    curve = np.full(max_delay + 1, -np.inf)
    for start in range(n_channels):
        table = squared_gaps(start, 0)
        table[near] = np.inf
        value = beta(table)
        curve = np.maximum(curve, value.max(0))
        if value.max() > best:
            best, chosen = value.max(), (start, table, value)
    start, table, value = chosen  # every channel's beta is finite

    delays, channels, fractions = [0], [start], []
    _, distance = _nearest(table)
    while True:
        channel, delay = (int(k) for k in np.unravel_index(value.argmax(), value.shape))
        table = table + squared_gaps(channel, delay)
        _, grown = _nearest(table)
        fractions.append(float((grown > stretch * distance).mean()))
        done = fractions[-1] <= threshold or len(delays) >= max_cycles
        if done or (len(fractions) > 1 and fractions[-1] > fractions[-2]):
            return MDOPEmbedding(delays, channels, window, curve, fractions)
        delays.append(delay)
        channels.append(channel)
        distance = grown
        value = beta(table)


def cao_statistic(
    x: np.ndarray,
    lag: int,
    max_order: int,
    rng: np.random.RandomState,
    n_reference: int = 200,
) -> np.ndarray:
    r"""Cao's E1 of each channel for the dimensions 1..max_order.

    .. math:: E(d) = \Big\langle \frac{\|y_i^{(d+1)} - y_{j(i)}^{(d+1)}\|_\infty}
              {\|y_i^{(d)} - y_{j(i)}^{(d)}\|_\infty} \Big\rangle_i, \qquad
              E_1(d) = E(d+1) / E(d)

    with j(i) the nearest neighbor in dimension d. E1 stops changing at the dimension
    that unfolds the signal.

    Parameters
    ----------
    x : ndarray, shape (n_channels, n_times)
        Standardized signals.
    lag : int
        Delay in samples.
    max_order : int
        Largest dimension.
    rng : RandomState
        Draws the reference points.
    n_reference : int, default=200
        Number of reference points.

    Returns
    -------
    ndarray, shape (n_channels, max_order)

    References
    ----------
    .. [1] Cao, "Practical method for determining the minimum embedding dimension of a
           scalar time series", Physica D 110, 1997.
    """
    n = x.shape[1] - (max_order + 1) * lag
    reference = np.sort(rng.permutation(n)[:n_reference])
    rows = np.arange(len(reference))
    growth = np.empty((len(x), max_order + 1))
    for c, s in enumerate(x):
        table = np.abs(s[reference, None] - s[:n])
        # a repeat of the point itself (also a quantized one) is no neighbor
        table[table < 1e-12] = np.inf
        for d in range(1, max_order + 2):
            neighbor = table.argmin(1)
            distance = table[rows, neighbor]
            s_next = s[d * lag : d * lag + n]
            gap = np.abs(s_next[reference, None] - s_next)
            usable = np.isfinite(distance)
            ratio = np.maximum(gap[rows, neighbor], distance) / distance
            growth[c, d - 1] = ratio[usable].mean() if usable.any() else 1.0
            np.maximum(table, gap, out=table)
    return growth[:, 1:] / growth[:, :-1]
