"""Normal distributions wrapped onto manifolds."""

import math
import warnings
from typing import Self

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.linalg.checks import check_floating, check_spd
from manifoldkit.linalg.draws import generator_option
from manifoldkit.manifolds import SpecialOrthogonal, Sphere
from manifoldkit.manifolds.points import check_manifold_argument, check_points
from manifoldkit.manifolds.sphere import Oblique
from manifoldkit.manifolds.tangent import coordinates, tangent_basis
from manifoldkit.manifolds.volume import log_volume
from manifoldkit.statistics.base import frechet_mean, log_coordinates, to_weights
from manifoldkit.statistics.limits import injectivity_radius

#: Probability beyond the injectivity radius that is silently left out.
_LOST = 1e-3


class WrappedNormal:
    r"""Normal tangent vectors at a mean, carried to the manifold.

    :math:`y = \exp_m(\sum_a c_a B_a)` with :math:`c \sim N(0, C)` in the orthonormal
    basis B of :func:`~manifoldkit.manifolds.tangent_basis`. Densities are those of
    the Riemannian volume.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Manifold with exponential; densities need a logarithm too.
    mean : Tensor, shape (*point,)
        m.
    covariance : float or Tensor, shape (), (d,) or (d, d)
        C; a number or d numbers are variances.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit; C not positive definite.

    Notes
    -----
    On spheres and SO(3) a point has many tangent vectors that lead to it, around the
    sphere again and again. ``log_prob(y, n_folds=k)`` adds up those that go around up
    to k times, for any C; without them a wide distribution loses mass: a spread of 1.5
    on the sphere keeps 0.89. Once folded, the density is infinite at the mean and at
    its antipode (whole spheres of vectors lead there).

    Examples
    --------
    >>> m = torch.tensor([0., 0., 1.])
    >>> normal = WrappedNormal(Sphere(), m, 0.01)
    >>> y = normal.rsample(5, generator=torch.Generator().manual_seed(0))
    >>> y.shape, normal.log_prob(y).shape
    (torch.Size([5, 3]), torch.Size([5]))
    >>> normal.log_prob(m)  # -log(2 pi 0.01)
    tensor(2.7673)
    """

    def __init__(
        self, manifold: Manifold, mean: Tensor, covariance: float | Tensor
    ) -> None:
        self.manifold = check_manifold_argument(manifold)
        self.mean = check_points(manifold, mean, "mean")
        if self.mean.ndim != manifold.ndim:
            raise ValueError(
                f"mean: expected one point of {manifold.ndim} dimensions, found shape "
                f"{tuple(self.mean.shape)}"
            )
        self.basis = tangent_basis(manifold, self.mean)
        self.covariance = self._as_matrix(covariance)
        self._factor = torch.linalg.cholesky(self.covariance)

    @property
    def dim(self) -> int:
        """Dimension of the manifold."""
        return len(self.basis)

    def __repr__(self) -> str:
        return f"WrappedNormal({self.manifold}, dim={self.dim})"

    def _as_matrix(self, covariance: float | Tensor) -> Tensor:
        d, like = len(self.basis), self.mean
        if not isinstance(covariance, Tensor):
            try:
                covariance = torch.tensor(float(covariance), dtype=like.dtype)
            except (TypeError, ValueError):
                raise TypeError(
                    "covariance: expected a number or a tensor, found "
                    f"{type(covariance).__name__} {covariance!r}"[:200]
                ) from None
        c = check_floating(covariance, "covariance").to(like)
        if c.shape in ((), (d,)):
            if not bool((c > 0).all() & c.isfinite().all()):
                raise ValueError(
                    f"covariance: expected positive variances, found {c.tolist()}"
                )
            return torch.diag_embed(c.expand(d))
        if c.shape != (d, d):
            raise ValueError(
                f"covariance: expected shape (), ({d},) or ({d}, {d}), the dimension "
                f"of the manifold, found {tuple(c.shape)}"
            )
        check_spd(c, "covariance")
        return (c + c.mT) / 2

    @classmethod
    def fit(
        cls, manifold: Manifold, X: Tensor, sample_weight: Tensor | None = None
    ) -> Self:
        """Return the distribution with mean and covariance of points.

        Parameters
        ----------
        manifold : geoopt.Manifold
            Manifold with exponential and logarithm.
        X : Tensor, shape (n, *point)
            Points, more than dimensions.
        sample_weight : Tensor, shape (n,), optional
            Non-negative weights.
        """
        check_manifold_argument(manifold)
        X = check_points(manifold, X, "X", "n").detach()
        if X.ndim != manifold.ndim + 1:
            raise ValueError(f"X: expected shape (n, point), found {tuple(X.shape)}")
        w = to_weights(sample_weight, len(X)).to(X)
        mean = frechet_mean(manifold, X, w, None, 100).mean
        c = log_coordinates(manifold, mean, tangent_basis(manifold, mean), X)
        return cls(manifold, mean, (c * w[:, None]).mT @ c)

    def rsample(
        self,
        n: int | tuple[int, ...] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw points, with gradient to mean and covariance.

        Parameters
        ----------
        n : int or tuple of int, default=()
            Number of points, or batch shape.
        generator : torch.Generator, optional
            Source of randomness.

        Returns
        -------
        Tensor, shape (*n, *point)
        """
        shape = (n,) if isinstance(n, int) else tuple(n)
        for size in shape:
            check_count(size, "n", 0)
        z = torch.randn(
            (*shape, self.dim),
            dtype=self.mean.dtype,
            device=self.mean.device,
            **generator_option(generator),
        )
        u = torch.tensordot(z @ self._factor.mT, self.basis, 1)
        # with a mean that has a gradient, vectors have to stay tangent
        base = self.mean.expand_as(u)
        return self.manifold.expmap(base, self.manifold.proju(base, u))

    def log_prob(self, y: Tensor, n_folds: int = 0) -> Tensor:
        r"""Logarithm of the density at points.

        Parameters
        ----------
        y : Tensor, shape (..., *point)
            Points.
        n_folds : int, default=0
            Times around a sphere or SO(3) that are added up; 0 takes the shortest
            vector alone.

        Returns
        -------
        Tensor, shape (...)

        Raises
        ------
        NotImplementedError
            The manifold has no logarithm.
        ValueError
            Folds on another manifold; points that do not fit.

        Warns
        -----
        UserWarning
            More than 1/1000 of the mass goes beyond the injectivity radius, and is
            not counted.
        """
        check_count(n_folds, "n_folds", 0)
        manifold = self.manifold
        y = check_points(manifold, y, "y")
        if y.shape[y.ndim - manifold.ndim :] != self.mean.shape:
            raise ValueError(
                f"y: expected points of shape {tuple(self.mean.shape)}, found shape "
                f"{tuple(y.shape)}"
            )
        base = self.mean.expand_as(y)
        u = manifold.logmap(base, y)
        c = coordinates(manifold, self.mean, self.basis, u)
        if n_folds:
            return self._folded(c, n_folds)
        self._warn_of_lost_mass()
        return self._normal(c) - log_volume(manifold, base, u)

    def _normal(self, c: Tensor) -> Tensor:
        """Logarithm of the normal density of coordinates (..., d)."""
        flat = c.reshape(-1, self.dim).mT
        z = torch.linalg.solve_triangular(self._factor, flat, upper=False)
        square = z.square().sum(0).reshape(c.shape[:-1])
        log_det = 2 * self._factor.diagonal().log().sum()
        return -(square + log_det + self.dim * math.log(2 * math.pi)) / 2

    def _winding(self) -> tuple[float, float, float]:
        """Length of the unit angle, and power and frequency of the volume ratio."""
        manifold = self.manifold
        if isinstance(manifold, Sphere) and not isinstance(manifold, Oblique):
            return manifold.radius, self.dim - 1.0, 1.0
        if isinstance(manifold, SpecialOrthogonal) and self.mean.shape[-1] in (2, 3):
            unit = 1.0 if manifold.scale == "angle" else math.sqrt(2)
            return unit, self.dim - 1.0, 0.5
        raise ValueError(
            f"n_folds: known on spheres, SO(2) and SO(3), not on {manifold}; expected 0"
        )

    def _folded(self, c: Tensor, n_folds: int) -> Tensor:
        """Add up the densities of all vectors ``(t + 2 pi j)`` along one direction."""
        unit, power, frequency = self._winding()
        length = c.norm(dim=-1, keepdim=True)
        zero = length == 0
        first = torch.zeros_like(c)
        first[..., 0] = 1
        direction = torch.where(zero, first, c / torch.where(zero, 1.0, length))
        j = torch.arange(-n_folds, n_folds + 1, dtype=c.dtype, device=c.device)
        angle = length / unit + 2 * math.pi * j  # (..., folds), negative: backwards
        normal = self._normal((unit * angle)[..., None] * direction[..., None, :])
        if power == 0:
            return torch.logsumexp(normal, -1)
        # at the length zero itself the ratio of volumes is one, not 0 / 0
        own = angle == 0
        safe = torch.where(own, 1.0, angle)
        sine = torch.sin(frequency * torch.where(own, 1.0, length / unit)).abs()
        ratio = (frequency * safe).abs().log() - sine.log()
        ratio = torch.where(own, 0.0, ratio)
        return torch.logsumexp(normal + power * ratio, -1)

    def _warn_of_lost_mass(self) -> None:
        radius = injectivity_radius(self.manifold)
        if not math.isfinite(radius):
            return
        with torch.no_grad():
            most = float(torch.linalg.eigvalsh(self.covariance)[-1])
            # chi-square of all directions as wide as the widest, at 1e-3
            d = self.dim
            if radius**2 > most * (d + 2 * math.sqrt(7 * d) + 14):
                return
            g = torch.Generator(self.mean.device).manual_seed(0)
            z = torch.randn(1 << 15, d, generator=g, device=g.device).to(self._factor)
            lost = float(((z @ self._factor.mT).norm(dim=-1) > radius).double().mean())
        if lost > _LOST:
            warnings.warn(
                f"WrappedNormal on {self.manifold}: {lost:.1%} of the mass lies beyond "
                f"the injectivity radius {radius:.3g} and is not counted"
                + (
                    "; pass n_folds"
                    if isinstance(self.manifold, Sphere | SpecialOrthogonal)
                    else ""
                ),
                UserWarning,
                stacklevel=3,
            )
