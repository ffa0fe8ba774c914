"""Matrix groups GL+(n) and SL(n) with a left-invariant metric; GL+(n) in polar form."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg import expm, logm, polar, solve_lyapunov
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.rotation_log import logm_rotation
from manifoldkit.manifolds.base import (
    SquareMatrixManifold,
    sample_normal,
    trace_product,
)
from manifoldkit.manifolds.spd.affine_invariant import AffineInvariantSPD
from manifoldkit.manifolds.special_orthogonal import skew

_RETRACTIONS = ("expm", "cayley", "exp")


class _LeftInvariant(SquareMatrixManifold):
    """Matrix group with the metric ``tr (x^-1 u)'(x^-1 v)``."""

    def _algebra(self, a: Tensor) -> Tensor:
        """Project a matrix to the Lie algebra."""
        return a

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """``tr (x^-1 u)'(x^-1 v)``."""
        a = torch.linalg.solve_ex(x, u)[0]
        b = a if v is None else torch.linalg.solve_ex(x, v)[0]
        return trace_product(a, b, keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """``x`` times the algebra part of ``x'u``."""
        return x @ self._algebra(x.mT @ u)

    def _finish(self, y: Tensor) -> Tensor:
        """Remove the rounding that leads off the group."""
        return y

    def _step(self, x: Tensor, a: Tensor, kind: str) -> Tensor:
        if kind == "exp":
            factor = torch.linalg.matrix_exp(a.mT) @ torch.linalg.matrix_exp(a - a.mT)
        elif kind == "cayley":
            factor = torch.linalg.solve_ex(eye_like(x) - a / 2, eye_like(x) + a / 2)[0]
        else:
            factor = torch.linalg.matrix_exp(a)
        return self._finish(x @ factor)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Step by the retraction chosen."""
        return self._step(x, torch.linalg.solve_ex(x, u)[0], self.retraction)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic ``x expm(a') expm(a - a')``, ``a = x^-1 u``."""
        return self._step(x, torch.linalg.solve_ex(x, u)[0], "exp")

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """No closed form exists for this metric: raises ``NotImplementedError``."""
        raise NotImplementedError(
            'no closed logarithm or distance; GLPlus(metric="polar") has both'
        )

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Left translation ``y x^-1 v``, an isometry."""
        return y @ torch.linalg.solve_ex(x, v)[0]

    def frame(self, x: Tensor) -> Tensor:
        """Return x itself: coordinates are ``x^-1 u``."""
        return x

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """Coordinates of the Riemannian gradient, the algebra part of ``x'G``."""
        return self._algebra(frame.mT @ egrad)

    def frame_retr(self, frame: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Step; the new frame is the new point."""
        y = self._step(frame, self._algebra(d), self.retraction)
        return y, y

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """Return ``x^-1 u``."""
        return torch.linalg.solve_ex(frame, u)[0]

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """Return ``x d``."""
        return frame @ d


class GLPlus(SquareMatrixManifold):
    r"""Invertible matrices with positive determinant.

    Parameters
    ----------
    metric : {"left_invariant", "polar"}
        ``"left_invariant"``: :math:`\operatorname{tr} (x^{-1}u)'(x^{-1}v)`, whose
        geodesics :math:`x e^{tA'} e^{t(A - A')}, A = x^{-1}u` have no closed inverse:
        ``logmap`` and ``dist`` raise ``NotImplementedError``. ``"polar"``: the product
        of the affine-invariant metric on P and the bi-invariant one on R in
        :math:`x = PR`, with exact ``logmap`` and ``dist``.
    retraction : {"expm", "cayley", "exp"}, default="expm"
        For the left-invariant metric: x times the exponential of A, its Cayley
        transform (cheaper; for steps with :math:`|A| < 2`), or the geodesic.

    Raises
    ------
    ValueError
        Unknown metric or retraction.

    Notes
    -----
    The set is open, so no projection exists for a matrix whose determinant is not
    positive: ``projx`` returns its argument and the checks name the determinant.

    Examples
    --------
    >>> x, y = torch.eye(2), 2 * torch.eye(2)
    >>> GLPlus("polar").dist(x, y)
    tensor(0.9803)
    """

    name = "GLPlus"
    metric: str

    def __new__(
        cls, metric: str = "left_invariant", retraction: str = "expm"
    ) -> "GLPlus":
        """Choose the class of the metric."""
        if cls is not GLPlus:
            return super().__new__(cls)
        check_choice(metric, ("left_invariant", "polar"), "metric")
        return super().__new__(PolarGLPlus if metric == "polar" else LeftGLPlus)

    def __init__(self, metric: str = "left_invariant", retraction: str = "expm"):
        super().__init__()
        self.retraction = check_choice(retraction, _RETRACTIONS, "retraction")
        self.reversible = self.metric == "polar" or retraction != "exp"

    def _violation(self, x):
        # the determinant itself under- or overflows for large n
        sign, log_abs = torch.linalg.slogdet(x)
        gap = torch.where(sign > 0, 0.0, 1.0 - sign * log_abs.exp())
        return gap, "1 - det x of a matrix with det x <= 0"

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Every matrix is tangent."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def projx(self, x: Tensor) -> Tensor:
        """Return x itself (see Notes of the class)."""
        return x.clone()

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Shrink the logarithms of both polar factors, towards the identity.

        With an anchor, the same for ``anchor^-1 x``.
        """
        base = eye_like(x).expand_as(x) if anchor is None else anchor
        p, r = polar(torch.linalg.solve_ex(base, x)[0])
        keep = 1 - rate
        return (
            base
            @ expm(keep * logm(p))
            @ torch.linalg.matrix_exp(keep * logm_rotation(r))
        )

    def _sample(self, shape, generator, dtype, device):
        x = sample_normal(shape, generator, dtype, device)
        sign = torch.linalg.slogdet(x)[0]
        return torch.cat([x[..., :1] * sign[..., None, None], x[..., 1:]], -1)


class LeftGLPlus(_LeftInvariant, GLPlus):
    """GL+(n) with the left-invariant metric."""

    metric = "left_invariant"


class PolarGLPlus(GLPlus):
    """GL+(n) as the product of SPD (affine-invariant) and SO, ``x = P R``.

    There is one retraction, the geodesic.
    """

    metric = "polar"

    def _split(self, x: Tensor, u: Tensor):
        """P, R, the change of P and the skew change ``R' dR``."""
        p, r = polar(x)
        w = u @ r.mT
        omega = solve_lyapunov(p, w - w.mT)
        dp = w - p @ omega
        return p, r, (dp + dp.mT) / 2, r.mT @ omega @ r

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Affine-invariant product of the changes of P plus ``tr`` of those of R."""
        p, _, dp, da = self._split(x, u)
        dq, db = (dp, da) if v is None else self._split(x, v)[2:]
        spd = AffineInvariantSPD()
        return spd.inner(p, dp, dq, keepdim=keepdim) + trace_product(da, db, keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Gradients of both factors, combined as ``dP R + P dR``."""
        p, r = polar(x)
        dp = AffineInvariantSPD().egrad2rgrad(p, u @ r.mT)
        return dp @ r + p @ r @ skew(r.mT @ p @ u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesics of both factors."""
        p, r, dp, da = self._split(x, u)
        return (
            AffineInvariantSPD().expmap(p, dp) @ r @ torch.linalg.matrix_exp(skew(da))
        )

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithms of both factors."""
        p, r = polar(x)
        q, s = polar(y)
        dp = AffineInvariantSPD().logmap(p, q)
        return dp @ r + p @ r @ logm_rotation(r.mT @ s)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Root of the sum of squared distances of the factors."""
        return SquareMatrixManifold.dist(self, x, y, keepdim=keepdim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of the change of P, left translation of that of R."""
        p, _, dp, da = self._split(x, v)
        q, s = polar(y)
        return AffineInvariantSPD().transp(p, q, dp) @ s + q @ s @ da


class SpecialLinear(_LeftInvariant):
    r"""Matrices of determinant one, with the left-invariant metric of :class:`GLPlus`.

    Tangent vectors are x times a trace-free matrix. Every step ends by dividing by
    :math:`\det^{1/n}`.

    Parameters
    ----------
    retraction : {"expm", "cayley", "exp"}, default="expm"
        Step of the left-invariant metric; :class:`GLPlus` describes it.

    Raises
    ------
    ValueError
        Unknown retraction.

    Examples
    --------
    >>> x = SpecialLinear().projx(4 * torch.eye(2))
    >>> torch.linalg.det(x)
    tensor(1.)
    """

    name = "SpecialLinear"

    def __init__(self, retraction: str = "expm"):
        super().__init__()
        self.retraction = check_choice(retraction, _RETRACTIONS, "retraction")
        self.reversible = retraction != "exp"

    def _violation(self, x):
        return (torch.linalg.det(x) - 1).abs(), "|det x - 1|"

    def _algebra(self, a):
        trace = a.diagonal(dim1=-2, dim2=-1).mean(-1)
        return a - trace[..., None, None] * eye_like(a)

    def _finish(self, y):
        # through the logarithm: a determinant of large n over- or underflows
        return y * torch.exp(-torch.linalg.slogdet(y)[1] / y.shape[-1])[..., None, None]

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection in the metric: ``x`` times trace-free ``x^-1 u``."""
        return x @ self._algebra(torch.linalg.solve_ex(x, u)[0])

    def projx(self, x: Tensor) -> Tensor:
        """Divide by ``det^(1/n)``; where the determinant is not positive, return x."""
        positive = torch.linalg.slogdet(x.detach())[0] > 0
        safe = torch.where(positive[..., None, None], x, eye_like(x))
        return torch.where(positive[..., None, None], self._finish(safe), x)

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """As :meth:`GLPlus.decay`, which keeps the determinant at one."""
        return self._finish(GLPlus().decay(x, rate, anchor))

    def _sample(self, shape, generator, dtype, device):
        return self._finish(GLPlus()._sample(shape, generator, dtype, device))
