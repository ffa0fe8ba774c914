"""What the matrix groups have in common."""

from abc import abstractmethod
from typing import Any, Literal, overload

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie._arrays import accepts_numpy
from manifoldkit.lie._guard import VALIDATE, accepts_numpy_checked, guard
from manifoldkit.lie.groups.measure import Measured
from manifoldkit.lie.groups.presentation import (
    ANGLES,
    CONVENTIONS,
    common,
    present,
    recover,
)
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_last,
    check_square,
    compute_dtype,
    first_index,
    tolerance,
)
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.symmetric import full_precision


class MatrixGroup(Measured):
    r"""A group of matrices with global coordinates, an invariant measure and samplers.

    Elements are the last two dimensions of a tensor; leading dimensions broadcast, and
    may be missing or empty. float32 and float64 are kept, half precision is computed in
    float32; NumPy arrays give NumPy arrays. Every method works under
    ``torch.func.vmap`` and ``jvp``, is twice differentiable and compiles without graph
    breaks, where its docstring does not say otherwise.

    Parameters
    ----------
    n : int
        Size of the matrices.
    alpha : float, default=1.0
        Scale of the inner product :math:`\alpha\, \mathrm{tr}(X'Y)` of the algebra, in
        which the coordinates are orthonormal.
    angle : {"principal", "periodic"}
        Form of the rotation in :meth:`coords` for n = 2: the angle in
        :math:`(-\pi, \pi]`, or its cosine and sine, continuous everywhere.
    convention : {"orthonormal", "rgenn"}
        ``"rgenn"``: coordinates of the reference code of [1]_ for n = 2, whose angle is
        in :math:`[0, 2\pi)`, hence jumps at the identity, and not scaled.

    References
    ----------
    .. [1] M. Mironenco and P. Forre, "Lie Group Decompositions for Equivariant Neural
           Networks", ICLR 2024.
    """

    #: smallest size
    _least = 2
    #: what an error says is expected
    _expected = "an element of the group"

    def __init__(
        self,
        n: int,
        *,
        alpha: float = 1.0,
        angle: str = "principal",
        convention: str = "orthonormal",
    ):
        self.n = check_count(n, "n", self._least)
        self.alpha = check_positive(alpha, "alpha")
        self.angle, self.convention = angle, convention
        self._check_form(angle, convention)
        stretches, turns = self._algebra()
        self.stretch_dim, self.turn_dim = len(stretches), len(turns)
        self._basis = torch.stack(stretches + turns)

    # -- what a group defines

    @abstractmethod
    def _algebra(self) -> tuple[list[Tensor], list[Tensor]]:
        """Orthonormal bases of the symmetric and of the skew part, for alpha = 1."""

    @abstractmethod
    def _contains(self, g: Tensor, atol: float) -> Tensor:
        """Tell which finite matrices are elements."""

    @abstractmethod
    def _coords(self, g: Tensor) -> Tensor:
        """Orthonormal coordinates for alpha = 1."""

    @abstractmethod
    def _from_coords(self, x: Tensor, /) -> Tensor:
        """Element of coordinates, given as the matrix ``hat(v)``."""

    @abstractmethod
    def _log(self, g: Tensor, /) -> Tensor:
        """Logarithm, NaN where there is none."""

    @abstractmethod
    def _distance(self, g: Tensor, h: Tensor, /) -> Tensor: ...

    @abstractmethod
    def _geodesic(self, g: Tensor, h: Tensor, t: Tensor, /) -> Tensor: ...

    @abstractmethod
    def _project(self, g: Tensor) -> Tensor: ...

    # -- size and arguments

    @property
    def dim(self) -> int:
        """Dimension of the group."""
        return self.stretch_dim + self.turn_dim

    @property
    def coords_dim(self) -> int:
        """Length of the vectors of :meth:`coords`."""
        return self.dim + (self.angle == "periodic")

    @property
    def matrix_size(self) -> int:
        """Rows of an element."""
        return self._basis.shape[-1]

    def __repr__(self) -> str:
        parts = [str(self.n)]
        if self.alpha != 1:
            parts.append(f"alpha={self.alpha}")
        if self.angle != "principal":
            parts.append(f"angle={self.angle!r}")
        if self.convention != "orthonormal":
            parts.append(f"convention={self.convention!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _check_form(self, angle: str, convention: str) -> None:
        check_choice(angle, ANGLES, "angle")
        check_choice(convention, CONVENTIONS, "convention")
        if self.n != 2 and (angle, convention) != ("principal", "orthonormal"):
            raise ValueError(
                f"angle={angle!r}, convention={convention!r}: expected n = 2, "
                f"found n = {self.n}"
            )
        if angle == "periodic" and convention == "rgenn":
            raise ValueError('angle="periodic" is not part of convention="rgenn"')

    def _form(self, angle: str | None, convention: str | None) -> tuple[str, str]:
        """Fill in the form of the group's own coordinates."""
        angle = self.angle if angle is None else angle
        convention = self.convention if convention is None else convention
        self._check_form(angle, convention)
        return angle, convention

    def _element(self, g: Tensor, name: str = "g") -> Tensor:
        return check_square(g, name, self.matrix_size)

    def _unit_basis(self, like: Tensor) -> Tensor:
        return self._basis.to(like.device, like.dtype) / self.alpha**0.5

    def _guarded(self, g: Tensor, validate: str):
        self._element(g)
        x = g.to(compute_dtype(g.dtype))
        # elements that were computed in half precision are only that precise
        coarse = tolerance(x.dtype, 1e4) if g.dtype == x.dtype else 0.1
        return guard(x, lambda y: self._inside(y, coarse), self._expected, validate)

    def _inside(self, g: Tensor, atol: float) -> Tensor:
        finite = torch.isfinite(g).all(-1).all(-1)
        eye = eye_like(g)
        safe = torch.where(finite[..., None, None], g, eye)
        return finite & self._contains(safe, atol)

    # -- the group

    def identity(
        self,
        *batch: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return the identity, shape ``(*batch, n, n)``."""
        eye = torch.eye(self.matrix_size, dtype=dtype, device=device)
        return eye.repeat(*batch, 1, 1) if batch else eye

    @accepts_numpy
    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """Return the product ``g h``; batch dimensions broadcast."""
        dtype, (g, h) = self._pair(g, h, "h")
        with full_precision(g):
            return self._compose(g, h).to(dtype)

    def _pair(self, g: Tensor, h: Tensor, name: str):
        """Check two matrices; return their dtype, and them in the one to compute in."""
        self._element(g)
        self._element(h, name)
        check_broadcast(**{"g": (g, 2), name: (h, 2)})
        return common(g, h)

    def _compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    @accepts_numpy_checked
    def inverse(self, g: Tensor, *, validate: str = "off") -> Tensor:
        """Return the inverse; NaN for a singular matrix alone."""
        x, finish = self._guarded(g, validate)
        return finish(self._inverse(x)).to(g.dtype)

    def _inverse(self, g: Tensor) -> Tensor:
        inverse, info = torch.linalg.inv_ex(g)
        return torch.where((info == 0)[..., None, None], inverse, torch.nan)

    @accepts_numpy
    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """Move points, ``g x``.

        Parameters
        ----------
        g : Tensor, shape (..., n, n)
            Elements.
        x : Tensor, shape (..., n)
            Points; batch dimensions broadcast against those of ``g``.
        """
        self._element(g)
        check_last(x, (self.n,), "x")
        check_broadcast(g=(g, 2), x=(x, 1))
        dtype, (g, x) = common(g, x)
        with full_precision(g):
            return self._act(g, x).to(dtype)

    def _act(self, g: Tensor, x: Tensor) -> Tensor:
        return (g @ x[..., None])[..., 0]

    @accepts_numpy
    def adjoint(self, g: Tensor, x: Tensor) -> Tensor:
        """Return ``g x g^-1`` for ``x`` in the Lie algebra, shape (..., n, n)."""
        dtype, (g, x) = self._pair(g, x, "x")
        with full_precision(g):
            return self._adjoint(g, x).to(dtype)

    def _adjoint(self, g: Tensor, x: Tensor) -> Tensor:
        return g @ x @ self._inverse(g)

    # -- exponential, logarithm

    @accepts_numpy
    def exp(self, x: Tensor) -> Tensor:
        """Group exponential of matrices of the Lie algebra, shape (..., n, n)."""
        self._element(x, "x")
        return self._exp(x.to(compute_dtype(x.dtype))).to(x.dtype)

    def _exp(self, x: Tensor, /) -> Tensor:
        return torch.linalg.matrix_exp(x)

    @overload
    def log(
        self, g: Tensor, return_valid: Literal[False] = ..., *, validate: str = ...
    ) -> Tensor: ...
    @overload
    def log(
        self, g: Tensor, return_valid: Literal[True], *, validate: str = ...
    ) -> tuple[Tensor, Tensor]: ...
    @accepts_numpy_checked
    def log(
        self, g: Tensor, return_valid: bool = False, *, validate: str = "off"
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Group logarithm, NaN for a matrix that has none.

        On GL+(n) and SL(n) the exponential is not onto: ``[[-1, 1], [0, -1]]`` has no
        real logarithm. :meth:`coords` exist always.

        Parameters
        ----------
        g : Tensor, shape (..., n, n)
            Elements.
        return_valid : bool, default=False
            Return the mask of those that have a logarithm as well.
        validate : {"raise", "mask", "off"}
            ``"raise"`` a ``ValueError`` at the first element without one, unless
            ``return_valid``; ``"mask"`` keeps derivatives from passing through them.
        """
        check_choice(validate, VALIDATE, "validate")
        self._element(g)
        x = g.to(compute_dtype(g.dtype))
        if validate == "mask":
            exists = torch.isfinite(self._log(x.detach())).all(-1).all(-1)
            eye = self.identity(dtype=x.dtype, device=x.device)
            x = self._log(torch.where(exists[..., None, None], x, eye))
            x = torch.where(exists[..., None, None], x, torch.nan)
        else:
            x = self._log(x)
            exists = torch.isfinite(x.detach()).all(-1).all(-1)
        if validate == "raise" and not return_valid and not bool(exists.all()):
            where = ", ".join(map(str, first_index(~exists)))
            raise NotOnManifoldError(
                f"g[{where}] has no principal logarithm: expected eigenvalues off the "
                "closed negative real axis; coords(g) exist for every element"
            )
        return (x.to(g.dtype), exists) if return_valid else x.to(g.dtype)

    @accepts_numpy
    def hat(self, v: Tensor) -> Tensor:
        """Matrix of the Lie algebra with orthonormal coordinates ``v``."""
        check_last(v, (self.dim,), "v")
        x = v.to(compute_dtype(v.dtype))
        basis = self._unit_basis(x)
        with full_precision(x):
            return (x @ basis.flatten(-2)).unflatten(-1, basis.shape[-2:]).to(v.dtype)

    @accepts_numpy
    def vee(self, x: Tensor) -> Tensor:
        """Orthonormal coordinates of a matrix of the Lie algebra."""
        self._element(x, "x")
        y = x.to(compute_dtype(x.dtype)) * self.alpha
        with full_precision(y):
            return (y.flatten(-2) @ self._unit_basis(y).flatten(-2).mT).to(x.dtype)

    # -- coordinates

    _present, _recover = present, recover

    @accepts_numpy_checked
    def coords(
        self,
        g: Tensor,
        *,
        angle: str | None = None,
        convention: str | None = None,
        validate: str = "off",
    ) -> Tensor:
        r"""Global coordinates: :math:`\mathrm{vee}(\log p + \log r)` with ``g = p r``.

        Parameters
        ----------
        g : Tensor, shape (..., n, n)
            Elements.
        angle, convention : str, optional
            Instead of those of the group.
        validate : {"raise", "mask", "off"}
            What to do about matrices outside the group: an error, NaN without or with a
            NaN derivative.

        Returns
        -------
        Tensor, shape (..., coords_dim)
        """
        angle, convention = self._form(angle, convention)
        x, finish = self._guarded(g, validate)
        v = self._present(self._coords(x), angle, convention)
        return finish(v, 1).to(g.dtype)

    @accepts_numpy
    def from_coords(
        self, v: Tensor, *, angle: str | None = None, convention: str | None = None
    ) -> Tensor:
        """Inverse of :meth:`coords`, shape (..., n, n)."""
        angle, convention = self._form(angle, convention)
        extra = int(angle == "periodic" and self.turn_dim > 0)
        check_last(v, (self.dim + extra,), "v")
        x = self._recover(v.to(compute_dtype(v.dtype)), angle, convention)
        return self._from_coords(self.hat(x)).to(v.dtype)

    # -- geometry

    def belongs(self, g: Any, atol: float | None = None) -> Any:
        """Tell which matrices are elements, up to ``atol``: bool, shape (...).

        The default tolerance is 1e4 rounding units of the dtype.
        """
        return self._belongs(g, atol)

    @accepts_numpy
    def _belongs(self, g: Tensor, atol: float | None) -> Tensor:
        self._element(g)
        x = g.detach().to(compute_dtype(g.dtype))
        unit = torch.finfo(g.dtype).eps
        return self._inside(
            x, (1e4 if unit < 1e-4 else 10) * unit if atol is None else atol
        )

    @accepts_numpy
    def project(self, g: Tensor) -> Tensor:
        """Return an element near a matrix; elements stay as they are."""
        self._element(g)
        return self._project(g.to(compute_dtype(g.dtype))).to(g.dtype)

    @accepts_numpy
    def distance(self, g: Tensor, h: Tensor) -> Tensor:
        """Geodesic distance of elements, shape (...); see the class for the metric."""
        dtype, (g, h) = self._pair(g, h, "h")
        with full_precision(g):
            return (self.alpha**0.5 * self._distance(g, h)).to(dtype)

    @accepts_numpy
    def geodesic(self, g: Tensor, h: Tensor, t: Tensor | float) -> Tensor:
        """Point at time ``t`` on the geodesic from ``g`` (0) to ``h`` (1).

        ``t`` is a number or a tensor that broadcasts against the batch.
        """
        dtype, (g, h) = self._pair(g, h, "h")
        time = torch.as_tensor(t, dtype=g.dtype, device=g.device)
        check_broadcast(g=(g, 2), h=(h, 2), t=(time, 0))
        with full_precision(g):
            return self._geodesic(g, h, time[..., None, None]).to(dtype)
