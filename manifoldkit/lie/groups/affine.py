"""Scales, and affine maps with a linear part from another group."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie import haar
from manifoldkit.lie._arrays import accepts_numpy
from manifoldkit.lie.groups.base import MatrixGroup
from manifoldkit.lie.groups.presentation import common, present, recover
from manifoldkit.linalg.checks import check_broadcast, check_last, compute_dtype
from manifoldkit.linalg.elementary import safe_sqrt


class Scale(MatrixGroup):
    r"""Positive scales, matrices of size 1.

    The coordinate is :math:`\log s`. ``act`` scales points of any dimension. Haar
    densities: ``"coords"`` and ``"matrix"`` (:math:`ds / s`). ``sample`` knows
    ``"lognormal"`` (``std``) and ``"uniform_box"`` (``bound``).

    Parameters
    ----------
    alpha : float, default=1.0
        See :class:`MatrixGroup`.

    Raises
    ------
    ValueError
        A scale of the product that is not positive.

    Examples
    --------
    >>> Scale().coords(torch.tensor([[[1.0]], [[2.0]]]))
    tensor([[0.0000],
            [0.6931]])
    """

    _least = 1
    _expected = "a positive number"

    def __init__(self, *, alpha: float = 1.0):
        super().__init__(1, alpha=alpha)

    def __repr__(self) -> str:
        return "Scale()" if self.alpha == 1 else f"Scale(alpha={self.alpha})"

    def _algebra(self):
        return [torch.ones(1, 1, dtype=torch.float64)], []

    def _check_form(self, angle, convention):
        if (angle, convention) != ("principal", "orthonormal"):
            raise ValueError("angle, convention: a scale has no rotation")

    def _contains(self, g, atol):
        return g[..., 0, 0] > 0

    def _inverse(self, g):
        return 1 / g

    @accepts_numpy
    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """Scale points of shape (..., d)."""
        self._element(g)
        check_last(x, ("d",), "x")
        check_broadcast(g=(g, 2), x=(x, 1))
        dtype, (g, x) = common(g, x)
        return (g[..., 0] * x).to(dtype)

    _exp = _from_coords = staticmethod(torch.exp)
    _log = staticmethod(torch.log)

    def _coords(self, g):
        return g[..., 0].log()

    def _project(self, g):
        return g.abs().clamp_min(torch.finfo(g.dtype).tiny)

    def _distance(self, g, h):
        return (g / h)[..., 0, 0].log().abs()

    def _geodesic(self, g, h, t):
        return g * torch.exp(t * (h / g).log())

    def _haar_log_density(self, g, coords):
        check_choice(coords, ("coords", "matrix"), "coords")
        log_s = g[..., 0, 0].log()
        return -log_s if coords == "matrix" else 0 * log_s

    def _cube_dim(self, options):
        options.proposal = options.proposal or "lognormal"
        check_choice(options.proposal, haar.STRETCHES[:2], "proposal")
        return 1

    def _draw(self, n, options):
        u = haar.stretch_points(1, 1, options)
        v, log_density = haar.vector_proposal(u, options)
        x = v[..., None] / self.alpha**0.5
        return x.exp(), (-x).exp(), -log_density


class Affine(MatrixGroup):
    r"""Affine maps :math:`y \mapsto h y + x` of :math:`R^n`, h from a group H.

    Elements are homogeneous matrices :math:`\begin{pmatrix} h & x \\ 0 & 1
    \end{pmatrix}` of size n + 1; :meth:`join` and :meth:`split` change between them and
    pairs. Coordinates: x, then those of h. Distance and geodesic are those of the
    product of :math:`R^n` and H. ``haar_log_density`` takes ``side="left"``
    (:math:`dx\, dh / |\det h|`, the default) or ``"right"`` (:math:`dx\, dh`) besides
    the coordinates of H. ``sample`` draws x normal with standard deviation
    ``translation_std``, h by the other arguments, and weighs for the left measure.

    Parameters
    ----------
    n : int
        Dimension of the space.
    group : MatrixGroup
        H, matrices of size n, or :class:`Scale`.

    Raises
    ------
    ValueError, TypeError
        A group of another size, or none.

    Examples
    --------
    >>> from manifoldkit.lie import SO
    >>> group = Affine(2, SO(2))
    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> g = group.join(torch.tensor([5.0, 0.0]), quarter)
    >>> group.act(g, torch.tensor([1.0, 0.0]))
    tensor([5., 1.])
    """

    _least = 1
    _expected = "an affine map with its linear part in the group"

    def __init__(self, n: int, group: MatrixGroup):
        if not isinstance(group, MatrixGroup) or isinstance(group, Affine):
            raise TypeError(f"group: expected a linear group, found {group!r}")
        if not isinstance(group, Scale) and group.n != n:
            raise ValueError(f"group: expected matrices of size {n}, found {group!r}")
        self.group = group
        self.n = n
        super().__init__(
            n, alpha=group.alpha, angle=group.angle, convention=group.convention
        )

    def __repr__(self) -> str:
        return f"Affine({self.n}, {self.group!r})"

    def _check_form(self, angle, convention):
        self.group._check_form(angle, convention)

    def _linear(self, h: Tensor) -> Tensor:
        """Matrix of size n of an element of H."""
        if not isinstance(self.group, Scale):
            return h
        return h * torch.eye(self.n, dtype=h.dtype, device=h.device)

    def _inner(self, h: Tensor) -> Tensor:
        """Element of H of a matrix of size n."""
        if not isinstance(self.group, Scale):
            return h
        return h.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]

    def _algebra(self):
        basis = []
        for k in range(self.n):
            e = torch.zeros(self.n + 1, self.n + 1, dtype=torch.float64)
            e[k, -1] = 1
            basis.append(e)
        pad = torch.nn.functional.pad
        linear = [
            pad(self._linear(e), (0, 1, 0, 1)) for e in self.group._basis.unbind(0)
        ]
        return basis + linear[: self.group.stretch_dim], linear[
            self.group.stretch_dim :
        ]

    def _unit_basis(self, like):
        basis = super()._unit_basis(like)
        # translations have their own unit
        return torch.cat([basis[: self.n] * self.alpha**0.5, basis[self.n :]])

    @accepts_numpy
    def vee(self, x: Tensor) -> Tensor:
        """Coordinates of a matrix of the Lie algebra: translation, then H's."""
        self._element(x, "x")
        inner = self._inner(x[..., :-1, :-1])
        return torch.cat([x[..., :-1, -1], self.group.vee(inner)], -1)

    @accepts_numpy
    def join(self, x: Tensor, h: Tensor) -> Tensor:
        """Homogeneous matrix of a translation (..., n) and a linear part."""
        self.group._element(h, "h")
        check_last(x, (self.n,), "x")
        check_broadcast(x=(x, 1), h=(h, 2))
        _, (x, h) = common(x, h)
        return self._join(x, self._linear(h))

    def _join(self, x: Tensor, h: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(x.shape[:-1], h.shape[:-2])
        x, h = x.expand(*batch, self.n), h.expand(*batch, self.n, self.n)
        top = torch.cat([h, x[..., None]], -1)
        last = torch.eye(self.n + 1, dtype=h.dtype, device=h.device)[-1:]
        return torch.cat([top, last.expand(*batch, 1, self.n + 1)], -2)

    @accepts_numpy
    def split(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Translation (..., n) and linear part, an element of H."""
        self._element(g)
        return self._split(g)

    def _split(self, g: Tensor) -> tuple[Tensor, Tensor]:
        return g[..., :-1, -1], self._inner(g[..., :-1, :-1])

    def _contains(self, g, atol):
        last = torch.eye(self.n + 1, dtype=g.dtype, device=g.device)[-1]
        linear = g[..., :-1, :-1]
        inner = self._inner(linear)
        fits = (g[..., -1, :] - last).abs().amax(-1) <= atol
        gap = (self._linear(inner) - linear).abs().amax((-2, -1))
        near = gap <= atol * linear.abs().amax((-2, -1))
        return fits & near & self.group._contains(inner, atol)

    def _inverse(self, g):
        x, h = self._split(g)
        h = self._linear(self.group._inverse(h))
        return self._join(-(h @ x[..., None])[..., 0], h)

    def _act(self, g, x):
        return (g[..., :-1, :-1] @ x[..., None])[..., 0] + g[..., :-1, -1]

    def _log(self, g):
        x, h = self._split(g)
        a = self._linear(self.group._log(h))
        zero = torch.zeros_like(a)
        eye = torch.eye(self.n, dtype=a.dtype, device=a.device).expand_as(a)
        # the exponential of [[a, 1], [0, 0]] holds (e^a - 1) / a
        block = torch.cat([torch.cat([a, eye], -1), torch.cat([zero, zero], -1)], -2)
        phi = torch.linalg.matrix_exp(torch.nan_to_num(block))[..., : self.n, self.n :]
        shift = torch.linalg.solve_ex(phi, x[..., None])[0]
        top = torch.cat([a, shift + 0 * a[..., :1]], -1)
        return torch.cat([top, torch.zeros_like(top[..., :1, :])], -2)

    def _coords(self, g):
        x, h = self._split(g)
        return torch.cat([x, self.group._coords(h)], -1)

    def _present(self, v, angle, convention):
        inner = present(self.group, v[..., self.n :], angle, convention)
        return torch.cat([v[..., : self.n], inner], -1)

    def _recover(self, v, angle, convention):
        inner = recover(self.group, v[..., self.n :], angle, convention)
        return torch.cat([v[..., : self.n], inner], -1)

    def _from_coords(self, x):
        h = self.group._from_coords(self._inner(x[..., :-1, :-1]))
        return self._join(x[..., :-1, -1], self._linear(h))

    def _project(self, g):
        x, h = self._split(g)
        return self._join(x, self._linear(self.group._project(h)))

    def _distance(self, g, h):
        (x, a), (y, b) = self._split(g), self._split(h)
        square = (x - y).square().sum(-1) / self.alpha
        return safe_sqrt(square + self.group._distance(a, b) ** 2)

    def _geodesic(self, g, h, t):
        (x, a), (y, b) = self._split(g), self._split(h)
        inner = self._linear(self.group._geodesic(a, b, t))
        return self._join(x + t[..., 0] * (y - x), inner)

    @accepts_numpy
    def haar_log_density(
        self, g: Tensor, coords: str = "coords", side: str = "left"
    ) -> Tensor:
        """Log density of left or right Haar measure; see the class."""
        check_choice(side, ("left", "right"), "side")
        right = super().haar_log_density(g, coords)
        return right if side == "right" else right - self._log_abs_det(g)

    def _log_abs_det(self, g: Tensor) -> Tensor:
        h = g[..., :-1, :-1].to(compute_dtype(g.dtype))
        return torch.linalg.slogdet(h)[1].to(g.dtype)

    def modular_log(self, g: Tensor) -> Tensor:
        r"""Logarithm of the modular function, :math:`-\log|\det h|`, shape (...)."""
        self._element(g)
        return -self._log_abs_det(g)

    def _haar_log_density(self, g, coords):
        return self.group._haar_log_density(self._split(g)[1], coords)

    def _cube_dim(self, options):
        return self.n + self.group._cube_dim(options)

    def _draw(self, n, options):
        std = options.positive("translation_std", 1.0)
        x, log_density = haar.normal_vectors(options.columns(self.n), std)
        h, h_inv, log_weight = self.group._draw(n, options)
        h, h_inv = self._linear(h), self._linear(h_inv)
        g, g_inv = self._join(x, h), self._join(-(h_inv @ x[..., None])[..., 0], h_inv)
        return g, g_inv, log_weight - log_density - self._log_abs_det(g)
