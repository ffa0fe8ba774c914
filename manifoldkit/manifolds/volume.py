r"""How the exponential map stretches volume: what densities on manifolds need."""

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.linalg.elementary import log_sinc, log_sinhc
from manifoldkit.linalg.factorizations import cholesky, eigvalsh
from manifoldkit.manifolds.euclidean import Euclidean, PositiveReals
from manifoldkit.manifolds.grassmann import Grassmann
from manifoldkit.manifolds.points import check_manifold_argument, check_points
from manifoldkit.manifolds.product import Product
from manifoldkit.manifolds.spd.affine_invariant import AffineInvariantSPD
from manifoldkit.manifolds.spd.common import whiten
from manifoldkit.manifolds.spd.flat import FlatSPD
from manifoldkit.manifolds.special_orthogonal import SpecialOrthogonal, skew
from manifoldkit.manifolds.sphere import Sphere
from manifoldkit.manifolds.tangent import tangent_basis


def exp_log_volume(manifold: Manifold, x: Tensor, u: Tensor) -> Tensor:
    r"""Logarithm of the volume that the exponential map makes of a unit volume at u.

    :math:`\log|\det d(\exp_x)_u|` in orthonormal bases. A density f of tangent vectors
    is carried to the density :math:`f(\log_x y) / |\det|` of points.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold.
    x : Tensor, shape (..., *point)
        Points.
    u : Tensor, shape (..., *point)
        Tangent vectors there; they broadcast with x.

    Returns
    -------
    Tensor, shape (...)
        ``-inf`` where the exponential map folds (at conjugate points). With gradient.

    Raises
    ------
    TypeError, ValueError
        Not a manifold, or points or vectors that do not fit.

    Notes
    -----
    With :math:`\mathrm{sc}(t) = \sin t / t`:

    - sphere of dimension d and radius r: :math:`(d-1)\log\mathrm{sc}(|u|/r)`;
    - SO(n), angles :math:`\theta_i` of x'u: sum of :math:`2\log\mathrm{sc}(\rho/2)`
      over :math:`\rho = \theta_i \pm \theta_j`, and :math:`\theta_i` for odd n;
    - affine-invariant SPD, eigenvalues l of :math:`x^{-1}u`: sum of
      :math:`\log\mathrm{sinhc}((l_i - l_j)/2)`;
    - Grassmann, singular values s of u, :math:`p \le n/2`: :math:`(n-2p)\sum
      \log\mathrm{sc}(s_i) + \sum_{i<j}\log|\mathrm{sc}(s_i-s_j)\mathrm{sc}(s_i+s_j)|`;
    - flat metrics: zero. Products add up.

    Everything else (Stiefel, Bures-Wasserstein, GL+) takes half the log-determinant of
    the Gram matrix of the Jacobian by automatic differentiation, d exponentials.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> x, u = torch.tensor([1., 0., 0.]), torch.tensor([0., torch.pi / 2, 0.])
    >>> exp_log_volume(Sphere(), x, u).exp()  # sin t / t
    tensor(0.6366)
    """
    check_manifold_argument(manifold)
    ndim = manifold.ndim
    x = check_points(manifold, x, "x")
    if not isinstance(u, Tensor) or u.dtype != x.dtype:
        raise TypeError(
            f"u: expected a tensor of {x.dtype} like x, found {getattr(u, 'dtype', u)}"
        )
    if u.shape[u.ndim - ndim :] != x.shape[x.ndim - ndim :] or u.ndim < ndim:
        raise ValueError(
            f"u: expected vectors at points of shape {tuple(x.shape[x.ndim - ndim :])},"
            f" found shape {tuple(u.shape)}"
        )
    try:
        x, u = torch.broadcast_tensors(x, u.as_subclass(Tensor))
    except RuntimeError:
        raise ValueError(
            f"u: expected a shape that broadcasts with x, {tuple(x.shape)}, "
            f"found {tuple(u.shape)}"
        ) from None
    return log_volume(manifold, x, u)


def log_volume(manifold: Manifold, x: Tensor, u: Tensor) -> Tensor:
    """:func:`exp_log_volume` of points and vectors of one shape, without checks."""
    batch = u.shape[: u.ndim - manifold.ndim]
    if isinstance(manifold, Euclidean | PositiveReals | FlatSPD):
        return u.new_zeros(batch)
    if isinstance(manifold, Sphere):  # Oblique too: the columns add up
        t = manifold._length(u) / manifold.radius
        size = u.shape[manifold._dim]
        value = (size - 2) * log_sinc(t) if size > 2 else torch.zeros_like(t)
        return value.reshape(*batch, -1).sum(-1)
    if isinstance(manifold, SpecialOrthogonal):
        return _rotation_volume(skew(x.mT @ u))
    if isinstance(manifold, AffineInvariantSPD):
        s = eigvalsh(whiten(cholesky(x), u))
        i, j = torch.triu_indices(s.shape[-1], s.shape[-1], 1)
        return log_sinhc((s[..., i] - s[..., j]) / 2).sum(-1)
    if isinstance(manifold, Grassmann):
        return _subspace_volume(u)
    if isinstance(manifold, Product):
        total = u.new_zeros(batch)
        parts = zip(manifold.unpack_tensor(x), manifold.unpack_tensor(u), strict=True)
        for factor, (a, b) in zip(manifold.factors, parts, strict=True):
            total = total + log_volume(factor, a, b).reshape(*batch, -1).sum(-1)
        return total
    return differentiated_volume(manifold, x, u)


def _rotation_volume(a: Tensor) -> Tensor:
    n = a.shape[-1]
    s = torch.linalg.svdvals(a)  # every angle twice, and zero for odd n
    half = n // 2
    angle = s[..., : 2 * half].unflatten(-1, (half, 2)).mean(-1)
    i, j = torch.triu_indices(half, half, 1)
    roots = [angle[..., i] - angle[..., j], angle[..., i] + angle[..., j]]
    roots += [angle] if n % 2 else []
    return 2 * log_sinc(torch.cat(roots, -1) / 2).sum(-1)


def _subspace_volume(u: Tensor) -> Tensor:
    n, p = u.shape[-2:]
    k = min(p, n - p)  # a subspace and its complement move alike
    if k == 0:
        return u.new_zeros(u.shape[:-2])
    s = torch.linalg.svdvals(u)[..., :k]
    i, j = torch.triu_indices(k, k, 1)
    total = log_sinc(s[..., i] - s[..., j]) + log_sinc(s[..., i] + s[..., j])
    own = (n - 2 * k) * log_sinc(s).sum(-1) if n > 2 * k else 0.0
    return total.sum(-1) + own


def differentiated_volume(manifold, x: Tensor, u: Tensor) -> Tensor:
    """Half the log-determinant of the Gram matrix of the Jacobian at the end point."""
    ndim = manifold.ndim
    batch, event = u.shape[: u.ndim - ndim], u.shape[u.ndim - ndim :]
    x, u = x.reshape(-1, *event), u.reshape(-1, *event)
    basis = tangent_basis(manifold, x.detach())

    def end(c: Tensor) -> Tensor:
        return manifold.expmap(x, u + torch.tensordot(c, basis.transpose(0, 1), 1))

    d = basis.shape[1]
    zero = u.new_zeros(d)
    columns = [torch.func.jvp(end, (zero,), (e,))[1] for e in _eye(zero)]
    y = manifold.expmap(x, u)
    # Grassmann's bases turn, which is no motion of the subspace
    tangent = manifold.proju(
        y.unsqueeze(1).expand(-1, d, *event), torch.stack(columns, 1)
    )
    a, b = torch.broadcast_tensors(tangent.unsqueeze(2), tangent.unsqueeze(1))
    base = y[:, None, None].expand_as(a)
    gram = manifold.inner(base, a, b, keepdim=True).reshape(-1, d, d)
    return torch.linalg.slogdet((gram + gram.mT) / 2)[1].reshape(batch) / 2


def _eye(x: Tensor) -> Tensor:
    return torch.eye(len(x), dtype=x.dtype, device=x.device)
