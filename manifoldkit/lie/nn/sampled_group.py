"""The group elements at which feature maps are sampled, and when they are redrawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_counts, check_interval
from manifoldkit.lie import haar
from manifoldkit.lie.groups.presentation import ANGLES
from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.linalg.draws import generator_option

#: ``(group, n, generator, dtype, device)`` to ``(g, g_inv, log_weight)``.
Proposal = Callable[..., tuple[Tensor, Tensor, Tensor]]

_RESAMPLE = ("step", "epoch", "never")


@dataclass(frozen=True, eq=False)
class GroupSamples:
    """Group elements with what the layers need to know of them.

    Attributes
    ----------
    group : Group
        Such as ``GLPlus(2)``.
    g, g_inv : Tensor, shape (N, n, n)
        Elements and inverses.
    weight : Tensor, shape (N,)
        Weights of an integral over the group; they sum to one.
    angle : {"principal", "periodic"}
        Form of the coordinates (see ``group.coords``).
    """

    group: Any
    g: Tensor
    g_inv: Tensor
    weight: Tensor
    angle: str = "principal"

    def __len__(self) -> int:
        return self.g.shape[0]

    def relative(self, other: "GroupSamples") -> Tensor:
        """Coordinates of ``g^-1 g~`` for all pairs, shape ``(N, N~, d)``."""
        pairs = self.group.compose(self.g_inv[:, None], other.g[None, :])
        return coordinates(self.group, pairs, self.angle)

    def square_distance(self, relative: Tensor) -> Tensor:
        """Square of the distance of coordinates from those of the identity."""
        one = self.group.identity(dtype=relative.dtype, device=relative.device)
        home = coordinates(self.group, one, self.angle)
        return (relative - home).square().sum(-1)

    def local(self, points: Tensor) -> Tensor:
        """Points seen from every sample, ``g^-1 x``: shape ``(N, P, n)``."""
        return points @ self.g_inv.mT

    def det(self) -> Tensor:
        """Absolute determinants, shape ``(N,)``."""
        g = self.g.to(compute_dtype(self.g.dtype))
        return torch.linalg.det(g).abs().to(self.g.dtype)

    def to(self, dtype: torch.dtype, device: torch.device) -> "GroupSamples":
        """Return the samples in another dtype and on another device."""
        if self.g.dtype == dtype and self.g.device == device:
            return self
        g, g_inv, weight = (
            x.to(dtype=dtype, device=device) for x in (self.g, self.g_inv, self.weight)
        )
        return GroupSamples(self.group, g, g_inv, weight, self.angle)


def coordinates(group: Any, g: Tensor, angle: str) -> Tensor:
    """Coordinates of elements, rotation angles replaced by cos and sin if periodic."""
    if angle == "principal":
        return group.coords(g)
    return group.coords(g, angle=angle)


@dataclass(frozen=True)
class LocalBox:
    r"""A proposal of elements near the identity, spread evenly over a box.

    With :math:`g = e^Y R`, the entries of the symmetric :math:`Y` (in an orthonormal
    basis) lie in ``[-log_scale, log_scale]`` and the rotation's coordinates in
    ``[-angle, angle]`` radians: deformations of limited size, which is what an image
    of a digit, unlike one of a galaxy, may undergo without becoming another digit.
    Weights are the Haar measure's.

    Parameters
    ----------
    angle : float, default=0.6
        Largest rotation, at most pi.
    log_scale : float, default=0.35
        Largest logarithm of a stretch along a basis direction.
    points : {"lattice", "random"}
        A lattice with a random shift, so that few samples cover the box well while the
        integral stays unbiased, or independent points.

    Raises
    ------
    ValueError
        A size or a form of points out of range.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import GLPlus
    >>> from manifoldkit.lie.nn import LocalBox
    >>> g, g_inv, log_weight = LocalBox()(GLPlus(2), 6)
    >>> torch.allclose(g @ g_inv, torch.eye(2), atol=1e-6)
    True
    """

    angle: float = 0.6
    log_scale: float = 0.35
    points: str = "lattice"

    def __post_init__(self):
        check_interval(self.angle, "angle", 0, math.pi)
        check_interval(self.log_scale, "log_scale", 0)
        check_choice(self.points, ("lattice", "random"), "points")

    def __call__(
        self,
        group: Any,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``n`` elements; return them, their inverses and log weights."""
        like = group.identity(dtype=dtype, device=device)
        u = 2 * self._unit_points(n, group.dim, generator, like) - 1
        # orthonormal coordinates count a rotation as sqrt(2) times its angle, and all
        # of them are sqrt(alpha) times those of the box
        root, split = math.sqrt(group.alpha), group.stretch_dim
        stretch = u[:, :split] * (root * self.log_scale)
        turn = u[:, split:] * (root * self.angle * math.sqrt(2))
        still, straight = torch.zeros_like(turn), torch.zeros_like(stretch)

        def element(*parts: Tensor) -> Tensor:
            v = torch.cat(parts, -1)
            return group.from_coords(v, angle="principal", convention="orthonormal")

        p, p_inv = element(stretch, still), element(-stretch, still)
        r = element(straight, turn)
        log_weight = _log_haar(group, torch.cat([stretch, turn], -1))
        return p @ r, r.mT @ p_inv, log_weight

    def _unit_points(self, n, dim, generator, like) -> Tensor:
        """Points of the unit cube, shape ``(n, dim)``."""
        where = like.device if generator is None else generator.device
        options = {"dtype": like.dtype, "device": where, **generator_option(generator)}
        if self.points == "random":
            return torch.rand(n, dim, **options).to(like.device)
        ratio = 2.0
        for _ in range(32):  # the golden ratio for dim: x^(dim + 1) = x + 1
            ratio = (1 + ratio) ** (1 / (dim + 1))
        step = ratio ** -torch.arange(1.0, dim + 1, dtype=torch.float64)
        lattice = torch.arange(n, dtype=torch.float64)[:, None] * step % 1
        return (lattice.to(where, like.dtype) + torch.rand(dim, **options)).to(
            like.device
        ) % 1


def _log_haar(group, v: Tensor) -> Tensor:
    """Log Haar density in the coordinates of ``exp(Y) exp(A)``, up to a constant."""
    x = group.hat(v)
    # the stretch is Y = log(S) / 2
    stretch = haar.stretch_log_density(x + x.mT)
    return stretch + haar.rotation_log_density((x - x.mT) / 2)


class SampledGroup(nn.Module):
    """The samples of a group that one resolution stage of a network shares.

    Calling the module returns :class:`GroupSamples`: in training the current draw, in
    evaluation a fixed one, so that predictions are repeatable and kernels are kept.

    Parameters
    ----------
    group : Group
        ``GLPlus(n)``, ``SL(n)`` or ``SO(n)``.
    n : int
        Number of samples in training.
    proposal : str, callable or Tensor, optional
        A name that ``group.sample`` knows; a :class:`LocalBox` or a function like it;
        or fixed elements of shape ``(n, d, d)`` with equal weights (a finite subgroup
        gives exact equivariance). Default ``LocalBox()``.
    n_eval : int, optional
        Number of samples in evaluation: more cost time once and lower the error of the
        integral. Default ``n``.
    resample : {"step", "epoch", "never"}
        New samples at every call in training (from torch's global generator), at the
        first call after :meth:`train`, or not at all: training then uses the
        samples of evaluation.
    weighting : {"haar", "none", "clipped"}
        Weights of the integral: Haar measure over proposal density, equal, or the first
        cut at ``sqrt(N)`` times their mean.
    angle : {"principal", "periodic"}
        Coordinates that kernels see; "periodic" suits samples that go all around.
    seed : int, default=0
        Seed of the samples of evaluation.
    **options
        Handed to ``group.sample`` with a proposal by name.

    Raises
    ------
    ValueError
        An unknown option, or fixed elements of another number or outside the group.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import SO
    >>> from manifoldkit.lie.nn import SampledGroup
    >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> c4 = torch.stack([torch.linalg.matrix_power(quarter, k) for k in range(4)])
    >>> len(SampledGroup(SO(2), 4, c4)())
    4
    """

    g: Tensor
    g_inv: Tensor
    weight: Tensor

    def __init__(
        self,
        group: Any,
        n: int,
        proposal: str | Proposal | Tensor | None = None,
        *,
        n_eval: int | None = None,
        resample: str = "step",
        weighting: str = "haar",
        angle: str = "principal",
        seed: int = 0,
        **options: Any,
    ):
        super().__init__()
        check_counts(n=n, **({} if n_eval is None else {"n_eval": n_eval}))
        check_choice(resample, _RESAMPLE, "resample")
        check_choice(weighting, haar.WEIGHTINGS, "weighting")
        check_choice(angle, ANGLES, "angle")
        if isinstance(proposal, Tensor):
            size = group.identity().shape[-1]
            if proposal.shape != (n, size, size) or n_eval not in (None, n):
                raise ValueError(
                    f"proposal: expected {n} elements, a tensor of shape "
                    f"{(n, size, size)} and n_eval=None, found shape "
                    f"{tuple(proposal.shape)} and n_eval={n_eval}"
                )
            if not bool(group.belongs(proposal).all()):
                raise ValueError(
                    f"proposal: expected elements of {group!r}, found others at "
                    f"{(~group.belongs(proposal)).nonzero().flatten().tolist()}"
                )
            resample = "never"
        self.group, self.n, self.n_eval = group, n, n if n_eval is None else n_eval
        self.proposal = LocalBox() if proposal is None else proposal
        self.resample, self.weighting = resample, weighting
        self.angle, self.seed, self.options = angle, seed, options
        self._stale, self._current = True, cast(GroupSamples | None, None)
        generator = torch.Generator().manual_seed(seed)
        for name, value in zip(
            ("g", "g_inv", "weight"), self._draw(self.n_eval, generator), strict=True
        ):
            self.register_buffer(name, value)

    @property
    def coords_dim(self) -> int:
        """Number of coordinates a kernel sees of a group element."""
        identity = self.group.identity(dtype=torch.float64)
        return coordinates(self.group, identity, self.angle).shape[-1]

    def train(self, mode: bool = True) -> "SampledGroup":
        """Set the mode; with ``resample="epoch"`` the next call draws anew."""
        self._stale = self._stale or mode
        return super().train(mode)

    def forward(self) -> GroupSamples:
        """Return the samples that are current."""
        if not self.training or self.resample == "never":
            parts = self.g, self.g_inv, self.weight
            return GroupSamples(self.group, *parts, self.angle)
        if self.resample == "step" or self._stale or self._current is None:
            self._current, self._stale = self.sample(self.n), False
        return self._current.to(self.g.dtype, self.g.device)

    def sample(
        self, n: int | None = None, generator: torch.Generator | None = None
    ) -> GroupSamples:
        """Draw ``n`` samples in the dtype and on the device of the module."""
        g, g_inv, weight = self._draw(
            n or self.n, generator, self.g.dtype, self.g.device
        )
        return GroupSamples(self.group, g, g_inv, weight, self.angle)

    @torch.no_grad()
    def redraw(self, n_eval: int | None = None, seed: int | None = None) -> None:
        """Replace the samples of evaluation, for example by more of them."""
        self.n_eval = self.n_eval if n_eval is None else n_eval
        self.seed = self.seed if seed is None else seed
        generator = torch.Generator().manual_seed(self.seed)
        parts = self._draw(self.n_eval, generator)
        options = {"dtype": self.g.dtype, "device": self.g.device}
        self.g, self.g_inv, self.weight = (x.to(**options) for x in parts)

    def _draw(self, n, generator=None, dtype=None, device=None):
        options = {"dtype": dtype, "device": device}
        # samples that are kept must be ordinary tensors, wherever they are drawn
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(self.proposal, Tensor):
                g = self.proposal.detach().clone()
                return g, torch.linalg.inv(g), g.new_full((n,), 1 / n)
            if callable(self.proposal):
                parts = self.proposal(self.group, n, generator=generator, **options)
            else:
                parts = self.group.sample(
                    n,
                    proposal=self.proposal,
                    generator=generator,
                    **options,
                    **self.options,
                )
            g, g_inv, log_weight = parts
            return g, g_inv, haar.weigh(log_weight, self.weighting, True).exp()

    def extra_repr(self) -> str:
        """Return group and numbers."""
        return (
            f"{self.group!r}, n={self.n}, n_eval={self.n_eval}, "
            f"resample={self.resample!r}, weighting={self.weighting!r}"
        )

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_current"] = None
        return state
