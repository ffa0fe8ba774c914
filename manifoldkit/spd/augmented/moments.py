r"""Delay embedding of epochs and its exact second moments, without the big product.

The delay vector of a signal is :math:`z_t = (x_t, x_{t+l}, \dots, x_{t+(o-1)l})`. Its
second moments form ``order x order`` blocks of which only the first block row needs a
product over all samples: going one step down a block diagonal drops ``lag`` samples at
the head and gains ``lag`` at the tail. Every function here rests on that.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg.checks import check_floating, compute_dtype
from manifoldkit.linalg.transforms import is_vmapped

TRIMS = ("full", "moabb")

Signals = TypeVar("Signals", Tensor, np.ndarray)

# The one big product is made of so many epochs at once that their embedding stays in
# a core's cache: 1.2 times "oas, order 10, lag 1, function" of benchmarks/augmented.py.
_EMBEDDED_BYTES = 1 << 21


# Below so many channels two samples at a time: a product of few rows runs at 0.6 of the
# speed of one of many (22 channels in benchmarks/augmented.py).
_NARROW = 40


def check_order_lag(order: Any, lag: Any) -> tuple[int, int]:
    """Return order and lag as integers of at least 1, or raise naming the argument."""
    return check_count(order, "order"), check_count(lag, "lag")


def n_delay_vectors(n_times: int, order: int, lag: int, trim: str = "full") -> int:
    """Return the number of delay vectors of an epoch, ``T_eff`` in the messages.

    ``T - (order - 1) * lag`` for ``trim="full"``; for ``trim="moabb"`` the convention
    of MOABB's ``AugmentedDataset``, ``T - order * lag`` unless ``order`` is 1.

    Raises
    ------
    ValueError
        Fewer than 2 delay vectors are left.

    Examples
    --------
    >>> n_delay_vectors(640, 4, 8), n_delay_vectors(640, 4, 8, trim="moabb")
    (616, 608)
    """
    check_choice(trim, TRIMS, "trim")
    dropped = order * lag if trim == "moabb" and order > 1 else (order - 1) * lag
    left = n_times - dropped
    if left < 2:
        raise ValueError(
            f"order * lag is too large for the epoch: T = {n_times} samples, "
            f"order = {order}, lag = {lag} leave T_eff = {left} delay vectors, "
            "expected at least 2"
        )
    return left


def delay_embed(
    x: Signals, order: int = 1, lag: int = 1, *, trim: str = "full"
) -> Signals:
    """Return the delay vectors of signals as a strided view, blocks by delay.

    ``z[..., a, c, t] = x[..., c, t + a * lag]``. Reshaping the two block dimensions
    into one gives the signal that MOABB's ``AugmentedDataset`` concatenates.

    Parameters
    ----------
    x : Tensor or ndarray, shape (..., n_channels, n_times)
        Signals of any strides.
    order : int, default=1
        Number of delayed copies, the embedding dimension.
    lag : int, default=1
        Delay between copies, in samples.
    trim : {"full", "moabb"}, default="full"
        How many samples to keep, see :func:`n_delay_vectors`.

    Returns
    -------
    Tensor or ndarray, shape (..., order, n_channels, T_eff)
        A view of ``x``: no sample is copied. The array view is read-only because its
        entries overlap.

    Raises
    ------
    TypeError, ValueError
        ``order`` or ``lag`` no positive integer; too few samples; no channel axis.

    Examples
    --------
    >>> delay_embed(np.arange(6.0)[None], order=3, lag=2)[:, 0]
    array([[0., 1.],
           [2., 3.],
           [4., 5.]])
    """
    order, lag = check_order_lag(order, lag)
    if not isinstance(x, Tensor):
        x = np.asarray(x)
    if x.ndim < 2:
        raise ValueError(
            f"x: expected shape (..., n_channels, n_times), found {tuple(x.shape)}"
        )
    n = n_delay_vectors(x.shape[-1], order, lag, trim)
    shape = (*x.shape[:-2], order, x.shape[-2], n)
    given: tuple[int, ...] = x.stride() if isinstance(x, Tensor) else x.strides
    strides = (*given[:-2], lag * given[-1], *given[-2:])
    if isinstance(x, Tensor):
        return x.as_strided(shape, strides, x.storage_offset())
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def delay_names(
    channels: ArrayLike | None, n_channels: int, order: int, lag: int
) -> np.ndarray:
    """Return the names of the entries of a delay vector: channel and delay.

    Parameters
    ----------
    channels : array-like of str, optional
        Names of the channels, default x0, x1, ...; one name for all is numbered.
    n_channels, order, lag : int
        Shape of the delay vector.

    Raises
    ------
    ValueError
        Another number of names.

    Examples
    --------
    >>> delay_names(["Cz", "Pz"], 2, order=2, lag=4).tolist()
    ['Cz_t0', 'Pz_t0', 'Cz_t4', 'Pz_t4']
    """
    if channels is None:
        names = [f"x{c}" for c in range(n_channels)]
    else:
        names = [str(name) for name in np.ravel(channels)]
        if len(names) == 1 and n_channels > 1:
            names = [f"{names[0]}_{c}" for c in range(n_channels)]
    if len(names) != n_channels:
        raise ValueError(
            f"input_features: expected the names of {n_channels} channels, "
            f"found {len(names)} names"
        )
    if order > 1:
        names = [f"{name}_t{a * lag}" for a in range(order) for name in names]
    return np.array(names, dtype=object)


class DelayMoments(NamedTuple):
    """Sums over the delay vectors of epochs, one order.

    Attributes
    ----------
    second : Tensor, shape (n, order * n_channels, order * n_channels)
        Sum of ``z_t z_t'``.
    first : Tensor, shape (n, order * n_channels)
        Sum of ``z_t``.
    n_vectors : int
        Number of delay vectors.
    """

    second: Tensor
    first: Tensor
    n_vectors: int


def _first_row(x: Tensor, start: int, stop: int, order: int, lag: int) -> Tensor:
    """Sum of x_t (x_t, x_{t+lag}, ..)' over start <= t < stop: (n, C, order, C)."""
    n, c, _ = x.shape
    size = order * c * (stop - start) * x.element_size()
    at_once = n if x.is_cuda else max(1, _EMBEDDED_BYTES // max(size, 1))
    pairs = (stop - start) // (2 * lag)
    pays = c < _NARROW and order > 3 and pairs > 8
    paired = pays and not (x.is_cuda or x.requires_grad)
    rows = []
    for part in x.split(at_once):
        first = start
        total: Tensor | None = None
        if paired:
            total = _paired_row(part, start, pairs, order, lag)
            first += pairs * 2 * lag
        if first < stop or total is None:
            shifts = [slice(first + b * lag, stop + b * lag) for b in range(order)]
            wide = torch.cat([part[:, :, s] for s in shifts], 1)
            row = part[:, :, first:stop] @ wide.mT
            total = row if total is None else total + row
        rows.append(total)
    return (torch.cat(rows) if len(rows) > 1 else rows[0]).view(n, c, order, c)


def _paired_row(x: Tensor, start: int, pairs: int, order: int, lag: int) -> Tensor:
    """Sum as :func:`_first_row` over 2 lag pairs samples from start: (n, C, order C).

    The sample after a lag joins each sample as further channels: a product of twice the
    rows, half the columns and one shift more, which runs at a higher speed.
    """
    c = x.shape[1]
    # the windows of even and of odd number, each in one piece; a shift is a window
    phases = []
    for phase in range(2):
        first = start + phase * lag
        windows = pairs + (order - phase) // 2
        piece = x[:, :, first : first + (2 * windows - 1) * lag]
        phases.append(piece.unfold(-1, lag, 2 * lag).flatten(-2))
    size = pairs * lag
    wide = torch.cat(
        [
            phases[b % 2][:, :, b // 2 * lag : b // 2 * lag + size]
            for b in range(order + 1)
        ],
        1,
    )
    both = wide[:, : 2 * c] @ wide.mT
    row = both[:, :c, :-c] + both[:, c:, c:]
    square = row[:, :, :c]
    row[:, :, :c] = (square + square.mT) / 2
    return row


def _changes(x: Tensor, count: int, order: int, lag: int) -> Tensor:
    """Samples that a step down a block diagonal changes: (n, order - 1, C, 2 lag).

    ``lag`` samples come in after the last delay vector and ``lag`` go at the head.
    """
    n, c, _ = x.shape
    size = (order - 1) * lag
    pieces = [
        x[:, :, start : start + size].reshape(n, c, order - 1, lag)
        for start in (count, 0)
    ]
    return torch.cat(pieces, -1).transpose(1, 2)


def _assemble(row: Tensor, changes: Tensor, out: Tensor | None = None) -> Tensor:
    """Build the symmetric matrix from its first block row and the changes below."""
    n, c, order, _ = row.shape
    if out is None:
        out = row.new_empty(n, order * c, order * c)
    out = out.view(n, order, c, order, c)
    signed, right = _signed(changes), changes.flatten(1, 2).mT
    row = row.flatten(2)
    for a in range(order):
        blocks = row.view(n, c, order - a, c)
        out[:, a, :, a:] = blocks
        out[:, a + 1 :, :, a] = blocks[:, :, 1:].permute(0, 2, 3, 1)
        if a < order - 1:
            row = torch.baddbmm(row[:, :, :-c], signed[:, a], right[:, :, a * c :])
    squares = out.diagonal(dim1=1, dim2=3)  # a product may round them differently
    squares.copy_((squares + squares.transpose(1, 2)) / 2)
    return out.view(n, order * c, order * c)


def _centered(row, changes, first, count: int, ddof: int) -> tuple[Tensor, Tensor]:
    """Take the outer product of the mean out of row and changes, and divide.

    Both factors of a product get the root of what it is divided by, so that the matrix
    is symmetric to the last bit.
    """
    divisor = count - ddof
    mean = first / (count * divisor) ** 0.5
    row = row / divisor - mean[:, 0, :, None, None] * mean[:, None]
    more = torch.stack([mean[:, :-1], mean[:, 1:]], -1)  # comes in, goes
    half = changes.shape[-1] // 2
    changes = changes / divisor**0.5
    pieces = [changes[..., :half], more[..., :1], changes[..., half:], more[..., 1:]]
    return row, torch.cat(pieces, -1)


def _signed(changes: Tensor) -> Tensor:
    """What goes is subtracted."""
    half = changes.shape[-1] // 2
    return torch.cat([changes[..., :half], -changes[..., half:]], -1)


def delay_moments(
    x: Tensor,
    orders: Sequence[int],
    lag: int,
    trim: str = "full",
    out: dict[int, Tensor] | None = None,
    ddof: int | None = None,
) -> dict[int, DelayMoments]:
    """Return first and second moments of the delay vectors, for orders at one lag.

    A smaller order has a few more delay vectors: its first block row is that of the
    next larger one and these.

    Parameters
    ----------
    x : Tensor, shape (n, n_channels, n_times)
        Signals; subtract their mean first where it is large against their variation.
    orders : sequence of int
        Orders that share the products.
    lag : int
        Delay in samples.
    trim : {"full", "moabb"}
        See :func:`n_delay_vectors`.
    out : dict of int to Tensor, optional
        Where the second moments are written, contiguous.
    ddof : int, optional
        Make the second moments the covariance with the divisor ``n_vectors - ddof``:
        one pass over the matrices less than from the sums.

    Returns
    -------
    dict of int to DelayMoments
        Exactly what each order alone would give.
    """
    counts = {o: n_delay_vectors(x.shape[-1], o, lag, trim) for o in orders}
    moments = {}
    row, total, start = None, x.new_zeros(x.shape[:2]), 0
    for o in sorted(counts, reverse=True):
        count = counts[o]
        more = _first_row(x, start, count, o, lag)
        row = more if row is None else row[:, :, :o] + more
        total = total + x[:, :, start:count].sum(-1)
        start = count
        changes = _changes(x, count, o, lag)
        steps = _signed(changes).sum(-1)
        first = torch.cat([total[:, None], steps], 1).cumsum(1)
        top = row
        if ddof is not None:
            top, changes = _centered(row, changes, first, count, ddof)
        second = _assemble(top, changes, None if out is None else out[o])
        moments[o] = DelayMoments(second, first.flatten(1), count)
    return moments


def block_autocovariances(x: Tensor, order: int, lag: int = 1) -> Tensor:
    r"""Biased autocovariances of signals at the lags 0, lag, ..., (order - 1) lag.

    .. math:: \Gamma(h) = \frac1T \sum_{t=0}^{T-1-h} x_{t+h} x_t^\top

    of the centered signal. Dividing by T for every h makes the block-Toeplitz matrix
    positive semidefinite; dividing by T - h would not.

    Parameters
    ----------
    x : Tensor, shape (..., n_channels, n_times)
        Signals.
    order : int
        Number of lags, 0 included.
    lag : int, default=1
        Step between lags, in samples.

    Returns
    -------
    Tensor, shape (..., order, n_channels, n_channels)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor of signals, or ``(order - 1) * lag`` not under T.

    Examples
    --------
    >>> x = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    >>> block_autocovariances(x, order=3).flatten()
    tensor([ 1.0000, -0.7500,  0.5000])
    """
    check_signals(x)
    order, lag = check_order_lag(order, lag)
    n_times = x.shape[-1]
    n_delay_vectors(n_times, order, lag)
    x = x - x.mean(-1, keepdim=True)
    products = [
        x[..., h:] @ x[..., : n_times - h].mT for h in range(0, order * lag, lag)
    ]
    return torch.stack(products, dim=-3) / n_times


def block_toeplitz(gamma: Tensor) -> Tensor:
    """Arrange autocovariances (..., order, C, C) as the blocks Γ((a - b) lag).

    The block order is that of the delay vector ``(x_t, x_{t+lag}, ...)``; transposed
    blocks, ``Γ((b - a) lag)``, belong to the reversed vector of the Yule-Walker system.
    """
    order, c = gamma.shape[-3], gamma.shape[-1]
    both = torch.cat([gamma.flip(-3), gamma[..., 1:, :, :].mT], dim=-3)
    steps = torch.arange(order, device=gamma.device)
    # entry order - 1 - h of `both` is Γ(h), so block (a, b) reads order - 1 - (a - b)
    index = order - 1 - (steps[:, None] - steps[None, :])
    blocks = both[..., index, :, :]
    return blocks.transpose(-3, -2).reshape(*gamma.shape[:-3], order * c, order * c)


class VARModel(NamedTuple):
    """Coefficients and residual covariance of a vector autoregression.

    Attributes
    ----------
    coefficients : Tensor, shape (..., order, n_channels, n_channels)
        ``A_1 .. A_order``.
    noise_covariance : Tensor, shape (..., n_channels, n_channels)
        Covariance of the residual.
    """

    coefficients: Tensor
    noise_covariance: Tensor


def yule_walker(x: Tensor, order: int, lag: int = 1) -> VARModel:
    r"""Fit :math:`x_t = \sum_k A_k x_{t-kl} + e_t` by the Yule-Walker equations.

    .. math:: [\Gamma(l) \dots \Gamma(ol)] = [A_1 \dots A_o] R, \qquad
              R_{ab} = \Gamma((b-a)l)

    with biased autocovariances, so that the fitted process is stable.

    Parameters
    ----------
    x : Tensor, shape (..., n_channels, n_times)
        Signals; the mean is removed.
    order : int
        Number of coefficients.
    lag : int, default=1
        Step between the regressors, in samples.

    Returns
    -------
    VARModel
        ``coefficients`` (..., order, C, C) and ``noise_covariance`` (..., C, C).

    Raises
    ------
    TypeError, ValueError
        As :func:`block_autocovariances`, for ``order + 1`` lags.

    References
    ----------
    .. [1] Luetkepohl, "New Introduction to Multiple Time Series Analysis", 2005,
           section 3.3.4.

    Examples
    --------
    >>> noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    >>> x = torch.zeros(1, 4000)
    >>> for t in range(1, 4000):
    ...     x[0, t] = 0.6 * x[0, t - 1] + noise[t]
    >>> yule_walker(x, order=1).coefficients.round(decimals=1)
    tensor([[[0.6000]]])
    """
    order, lag = check_order_lag(order, lag)
    gamma = block_autocovariances(x, order + 1, lag)
    c = gamma.shape[-1]
    # the transposed blocks turn Γ((a - b) lag) into the system's Γ((b - a) lag)
    system, wide = block_toeplitz(gamma[..., :order, :, :].mT), compute_dtype(x.dtype)
    right = gamma[..., 1:, :, :].transpose(-3, -2).flatten(-2)
    flat, info = torch.linalg.solve_ex(
        system.to(wide), right.to(wide), left=False, check_errors=False
    )
    if not is_vmapped() and bool(info.any()):
        raise ValueError(
            "x: the autocovariances are singular (a constant channel, or one that is "
            "a combination of others?), expected channels of full rank"
        )
    flat = flat.to(gamma.dtype)
    coefficients = flat.unflatten(-1, (order, c)).transpose(-3, -2)
    noise = gamma[..., 0, :, :] - flat @ right.mT
    return VARModel(coefficients, (noise + noise.mT) / 2)


def check_signals(x: Tensor, name: str = "x") -> Tensor:
    """Raise unless ``x`` is a floating-point tensor (..., n_channels, n_times)."""
    check_floating(x, name)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(
            f"{name}: expected signals of shape (..., n_channels, n_times), "
            f"found shape {tuple(x.shape)}"
        )
    return x
