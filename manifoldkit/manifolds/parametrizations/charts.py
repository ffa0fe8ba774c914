r"""Maps from tensors without a constraint onto manifolds, and inverses from the right.

Every chart has ``point(raw)``, defined wherever the docstring does not say otherwise,
and ``raw(x)`` with ``point(raw(x)) = x`` for every point x: the whole manifold is
reached, including rotations by half turns and antipodes, which no single exponential
or Cayley map reaches with a finite and well-conditioned argument.
"""

import torch
from torch import Tensor

from manifoldkit.linalg import expm, logm, polar, procrustes, symmetrize
from manifoldkit.linalg.checks import maybe_any, must_not_look
from manifoldkit.linalg.elementary import bring_to_unit, eye_like
from manifoldkit.linalg.factorizations import cholesky, eigh
from manifoldkit.linalg.qr import newton_schulz_polar, qr_factor
from manifoldkit.manifolds.low_rank.truncation import descending_eigh, thin_svd


def exp_diagonal(raw: Tensor) -> Tensor:
    """Lower triangle of raw, the diagonal exponentiated; the rest is not read."""
    diagonal = raw.diagonal(dim1=-2, dim2=-1)
    return raw.tril(-1) + torch.diag_embed(diagonal.exp())


def log_diagonal(factor: Tensor) -> Tensor:
    """Inverse of :func:`exp_diagonal`."""
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    return factor.tril(-1) + torch.diag_embed(diagonal.log())


def _balanced(raw: Tensor) -> Tensor:
    """Divide by a constant so that the mean square of singular values is one."""
    raw = bring_to_unit(raw)
    size = torch.linalg.matrix_norm(raw.detach(), keepdim=True)
    size = size / raw.shape[-1] ** 0.5
    return raw / torch.where(size == 0, torch.ones_like(size), size)


def orthonormal(raw: Tensor) -> Tensor:
    """Nearest matrix with orthonormal columns, whatever the unit of raw.

    Products only where singular values are about equal, as they are in training.
    """
    if must_not_look(raw):
        return polar(bring_to_unit(raw), side="right").r
    return newton_schulz_polar(_balanced(raw))


def rotation(raw: Tensor) -> Tensor:
    """Nearest rotation, whatever the unit of raw."""
    eye = eye_like(raw).expand_as(raw)
    if must_not_look(raw):
        return procrustes(eye, raw, special=True)
    flips = (torch.linalg.det(bring_to_unit(raw.detach())) <= 0)[..., None, None]
    if not maybe_any(flips):
        return orthonormal(raw)
    proper = orthonormal(torch.where(flips, eye, raw))
    turned = procrustes(eye, torch.where(flips, raw, eye), special=True)
    return torch.where(flips, turned, proper)


class Chart:
    """The identity: raw values are the point."""

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the raw values for points of a shape."""
        return tuple(shape)

    def point(self, raw: Tensor) -> Tensor:
        """Return the point of raw values."""
        return raw

    def raw(self, x: Tensor) -> Tensor:
        """Return raw values of a point."""
        return x


class UnitVectors(Chart):
    """Vectors scaled to the radius; zero, which has no direction, to the origin."""

    def __init__(self, sphere):
        self.sphere = sphere

    def point(self, raw: Tensor) -> Tensor:
        """Return ``r raw / |raw|``, of vectors or of columns."""
        return self.sphere.projx(bring_to_unit(raw, (-self.sphere.ndim,)))


class Orthonormal(Chart):
    """The polar factor, smooth at matrices of full column rank."""

    def point(self, raw: Tensor) -> Tensor:
        """Return the nearest matrix with orthonormal columns."""
        return orthonormal(raw)


class Projector(Chart):
    """Projectors ``qq'`` to subspaces of a given dimension, from a basis."""

    def __init__(self, rank: int):
        self.rank = rank

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the basis."""
        return (*shape[:-1], self.rank)

    def point(self, raw: Tensor) -> Tensor:
        """Return the projector to the span of the columns."""
        q = orthonormal(raw)
        return symmetrize(q @ q.mT)

    def raw(self, x: Tensor) -> Tensor:
        """Return the eigenvectors of the largest eigenvalues."""
        return eigh(symmetrize(x))[1][..., x.shape[-1] - self.rank :]


class Rotation(Chart):
    """The nearest rotation, smooth unless the two least signed values cancel."""

    def point(self, raw: Tensor) -> Tensor:
        """Return the rotation nearest to raw."""
        return rotation(raw)


class Positive(Chart):
    """The exponential, kept within the normal numbers of the dtype."""

    def point(self, raw: Tensor) -> Tensor:
        """Return ``exp(raw)``."""
        info = torch.finfo(raw.dtype)
        return raw.exp().clamp(info.tiny, info.max)

    def raw(self, x: Tensor) -> Tensor:
        """Return ``log x``."""
        return x.log()


class LogCholesky(Chart):
    """``LL'`` with the logarithm of the diagonal of L; the lower triangle is read."""

    def point(self, raw: Tensor) -> Tensor:
        """Return ``LL'``."""
        factor = exp_diagonal(raw)
        return symmetrize(factor @ factor.mT)

    def raw(self, x: Tensor) -> Tensor:
        """Return the Cholesky factor with the logarithm of its diagonal."""
        return log_diagonal(cholesky(symmetrize(x)))


class LogEuclidean(Chart):
    """The exponential of the symmetric part."""

    def point(self, raw: Tensor) -> Tensor:
        """Return ``expm(sym(raw))``."""
        return symmetrize(expm(symmetrize(raw)))

    def raw(self, x: Tensor) -> Tensor:
        """Return ``logm(x)``."""
        return logm(x)


class RotationTimesTriangle(Chart):
    """``QR`` of a rotation and a triangle with positive diagonal; raw is ``[A, B]``.

    Q is the rotation nearest to A and R' the triangle of B. With ``unit_determinant``
    the logarithms of the diagonal are centered.
    """

    def __init__(self, unit_determinant: bool):
        self.unit_determinant = unit_determinant

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (..., n, 2n)."""
        return (*shape[:-1], 2 * shape[-1])

    def point(self, raw: Tensor) -> Tensor:
        """Return the product."""
        a, b = raw.chunk(2, -1)
        if self.unit_determinant:
            diagonal = b.diagonal(dim1=-2, dim2=-1)
            b = b - diagonal.mean(-1)[..., None, None] * eye_like(b)
        return rotation(a) @ exp_diagonal(b).mT

    def raw(self, x: Tensor) -> Tensor:
        """Return the factors of QR, which has a rotation where det x > 0."""
        q = qr_factor(x)
        return torch.cat([q, log_diagonal((q.mT @ x).mT)], -1)


class LowRank(Chart):
    """``U T V'``: orthonormal U and V, T a triangle; raw stacks ``[A; B; T]``."""

    def __init__(self, m: int, n: int, r: int):
        self.sizes, self.r = (m, n, r), r

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (..., m + n + r, r)."""
        return (*shape[:-2], sum(self.sizes), self.r)

    def factors(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return U, T and V."""
        a, b, t = raw.split(self.sizes, -2)
        return orthonormal(a), exp_diagonal(t), orthonormal(b)

    def point(self, raw: Tensor) -> Tensor:
        """Return ``U T V'``."""
        u, t, v = self.factors(raw)
        return u @ t @ v.mT

    def raw(self, x: Tensor) -> Tensor:
        """Return the leading terms of the SVD."""
        p, s, q = (part[..., : self.r] for part in thin_svd(x))
        return torch.cat([p, q, torch.diag_embed(s.log())], -2)


class LowRankPSD(Chart):
    """``(UL)(UL)'``: orthonormal U, L a triangle; raw stacks ``[A; L]``."""

    def __init__(self, n: int, r: int):
        self.sizes, self.r = (n, r), r

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (..., n + r, r)."""
        return (*shape[:-2], sum(self.sizes), self.r)

    def point(self, raw: Tensor) -> Tensor:
        """Return ``(UL)(UL)'``."""
        a, t = raw.split(self.sizes, -2)
        y = orthonormal(a) @ exp_diagonal(t)
        return symmetrize(y @ y.mT)

    def raw(self, x: Tensor) -> Tensor:
        """Return the leading eigenvectors and half the logarithms of eigenvalues."""
        s, p = (part[..., : self.r] for part in descending_eigh(x))
        return torch.cat([p, torch.diag_embed(s.log() / 2)], -2)


class Packed(Chart):
    """Charts of the factors of a product, raw values packed as points are."""

    def __init__(self, product, charts: list[Chart]):
        self.product, self.charts = product, charts
        rows = zip(charts, product.shapes, strict=True)
        self.shapes = [chart.raw_shape(shape) for chart, shape in rows]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (..., number of raw values)."""
        return (*shape[:-1], sum(self.sizes))

    def point(self, raw: Tensor) -> Tensor:
        """Return the packed points."""
        rows = zip(self.charts, raw.split(self.sizes, -1), self.shapes, strict=True)
        return self.product.pack_point(
            *(chart.point(part.unflatten(-1, shape)) for chart, part, shape in rows)
        )

    def raw(self, x: Tensor) -> Tensor:
        """Return the packed raw values."""
        rows = zip(self.charts, self.product.unpack_tensor(x), strict=True)
        batch = x.shape[:-1]
        parts = [chart.raw(part).reshape(*batch, -1) for chart, part in rows]
        return torch.cat(parts, -1)


class Stored(Chart):
    """Chart of a manifold whose points are stored transposed or flattened."""

    def __init__(self, view, chart: Chart):
        self.view, self.chart = view, chart

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in the layout of the manifold."""
        return self.chart.raw_shape(self.view.base_shape(shape))

    def point(self, raw: Tensor) -> Tensor:
        """Return the point as it is stored."""
        return self.view.from_base(self.chart.point(raw))

    def raw(self, x: Tensor) -> Tensor:
        """Return raw values in the layout of the manifold."""
        return self.chart.raw(self.view.to_base(x))
