r"""Learning the metric matrix of the generalized Bures-Wasserstein geometry.

The metric matrix ``M = C C'`` is found in its log-Cholesky coordinates (the strict
lower triangle of C and the logarithm of its diagonal), a vector space, by minimizing

.. math::
    \frac{1}{\sum_i w_i} \sum_i w_i \operatorname{CE}\bigl(y_i,
    \operatorname{softmax}_k(-\beta\, d_M(X_i, G_k(M))^2)\bigr)
    + \lambda |c - c_0|^2,

where the class means :math:`G_k` follow M, differentiated implicitly.
"""

import math

import torch
from torch import Tensor

from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.manifolds import SPD
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import power_of
from manifoldkit.spd.gbw.metric import gbw_distance


def to_log_cholesky(M: Tensor) -> Tensor:
    """Return the log-Cholesky coordinates of an SPD matrix, shape (n (n + 1) / 2,)."""
    chart = SPD("log_cholesky").chart(M)
    return torch.cat([chart[_strict(chart)], chart.diagonal()])


def _hermitian_to_log_cholesky(M: Tensor) -> Tensor:
    """Return n² coordinates of a Hermitian matrix, given by its real form."""
    factor = torch.linalg.cholesky(real_to_hermitian(M))
    strict, diagonal = factor[_strict(factor)], factor.diagonal().real
    return torch.cat([strict.imag, strict.real, diagonal.log()])


def _hermitian_from_log_cholesky(coordinates: Tensor, n: int) -> Tensor:
    """Invert :func:`_hermitian_to_log_cholesky`."""
    size = n * (n - 1) // 2
    factor = torch.diag(coordinates[2 * size :].exp())
    strict = _strict(factor)
    real = factor.masked_scatter(strict, coordinates[size : 2 * size])
    imag = torch.zeros_like(factor).masked_scatter(strict, coordinates[:size])
    half = hermitian_to_real(torch.complex(real, imag))
    return half @ half.mT


def from_log_cholesky(coordinates: Tensor, n: int) -> Tensor:
    """Invert :func:`to_log_cholesky`; any vector gives an SPD matrix.

    Examples
    --------
    >>> from_log_cholesky(torch.tensor([1., 0., 0.]), 2)
    tensor([[1., 1.],
            [1., 2.]])
    """
    strict, diagonal = coordinates[:-n], coordinates[-n:]
    chart = torch.diag(diagonal)
    chart = chart.masked_scatter(_strict(chart), strict)
    return SPD("log_cholesky").unchart(chart)


def _strict(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool).tril(-1)


def learn_metric_matrix(
    x: Tensor,
    codes: Tensor,
    weights: Tensor,
    groups: tuple[Tensor, Tensor],
    start: Tensor | None,
    *,
    power: float,
    penalty: float,
    max_iter: int,
    hermitian: bool = False,
) -> Tensor:
    """Return the metric matrix of least penalized cross-entropy.

    Parameters
    ----------
    x : Tensor, shape (n_matrices, n, n)
        SPD matrices.
    codes : Tensor of int, shape (n_matrices,)
        Classes 0, 1, ...
    weights : Tensor, shape (n_matrices,)
        Weights of the matrices.
    groups : tuple of Tensor, shape (n_classes, longest)
        Indices of the matrices of each class and their weights, 0 for padding.
    start : Tensor, shape (n, n), optional
        First metric matrix, default the identity.
    power, penalty, max_iter
        See :class:`~manifoldkit.spd.GBWMDM`.
    hermitian : bool, default=False
        The matrices are real forms of Hermitian ones, and so is the result.
    """
    n = x.shape[-1] // 2 if hermitian else x.shape[-1]
    to_coordinates, from_coordinates = (
        (_hermitian_to_log_cholesky, _hermitian_from_log_cholesky)
        if hermitian
        else (to_log_cholesky, from_log_cholesky)
    )
    index, group_weights = groups
    # in the units of the data the coordinates and their penalty have no unit
    scale = trace(power_of(x, power)).mean() / x.shape[-1]
    first = eye_like(x) if start is None else start / scale
    origin = to_coordinates(first)
    with torch.no_grad():
        means = gbw_mean(x[index], group_weights, first * scale, power)
        squared = gbw_distance(x[:, None], means, first * scale, power, squared=True)
    log_beta = -squared.mean().clamp_min(torch.finfo(x.dtype).tiny).log()[None]
    parameters = torch.cat([origin, log_beta]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=max_iter, line_search_fn="strong_wolfe"
    )
    warm = means

    def closure():
        nonlocal warm
        optimizer.zero_grad()
        coordinates, log_beta = parameters[:-1], parameters[-1]
        M = scale * from_coordinates(coordinates, n)
        means = gbw_mean(x[index], group_weights, M, power, init=warm)
        warm = means.detach()
        squared = gbw_distance(x[:, None], means, M, power, squared=True)
        losses = torch.nn.functional.cross_entropy(
            -squared * log_beta.exp(), codes, reduction="none"
        )
        loss = (weights * losses).sum() / weights.sum()
        loss = loss + penalty * (coordinates - origin).square().sum()
        if math.isfinite(float(loss.detach())):
            loss.backward()
        return loss

    optimizer.step(closure)
    return scale * from_coordinates(parameters[:-1].detach(), n)
