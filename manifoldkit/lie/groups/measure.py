"""The invariant measure of the matrix groups: its density, and weighted samples."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie import haar
from manifoldkit.lie._arrays import accepts_numpy
from manifoldkit.linalg.checks import compute_dtype


class Measured(ABC):
    """The part of a matrix group that integrates over it."""

    stretch_dim: int

    @abstractmethod
    def _element(self, g: Tensor, name: str = "g") -> Tensor:
        """Check the shape of elements."""

    @abstractmethod
    def _unit_basis(self, like: Tensor) -> Tensor:
        """Basis of the Lie algebra, orthonormal for the group's alpha."""

    @abstractmethod
    def _haar_log_density(self, g: Tensor, coords: str) -> Tensor: ...

    @abstractmethod
    def _cube_dim(self, options: haar.Options) -> int:
        """Number of uniforms that a sample takes; checks the proposals' names."""

    @abstractmethod
    def _draw(self, n: int, options: haar.Options) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, inverses and log weights in float64 on the generator's device."""

    def _float_basis(self, options: haar.Options) -> Tensor:
        """Basis of the symmetric part that stretches are drawn in."""
        like = torch.empty(0, dtype=torch.float64, device=options.device)
        return self._unit_basis(like)[: self.stretch_dim]

    @accepts_numpy
    def haar_log_density(self, g: Tensor, coords: str = "coords") -> Tensor:
        """Log density of Haar measure, up to a constant, where the class says.

        Parameters
        ----------
        g : Tensor, shape (..., n, n)
            Elements.
        coords : str
            The coordinates whose Lebesgue measure it is a density for: ``"coords"``
            (those of :meth:`coords`, all groups) or others that the class lists.

        Returns
        -------
        Tensor, shape (...)
        """
        self._element(g)
        return self._haar_log_density(g.to(compute_dtype(g.dtype)), coords).to(g.dtype)

    def sample(
        self,
        n: int,
        proposal: str | None = None,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        weighting: str = "haar",
        self_normalise: bool = False,
        points: str = "random",
        antithetic: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Draw elements with the weights that turn sums into Haar integrals.

        :math:`\tfrac1n \sum_i e^{l_i} f(g_i)` estimates the integral of f; with
        ``self_normalise`` :math:`\sum_i e^{l_i} f(g_i)` a mean.

        Parameters
        ----------
        n : int
            Number of samples.
        proposal : str, optional
            Distribution to draw from; see :mod:`manifoldkit.lie.haar` for names and
            ``options``.
        generator : torch.Generator, optional
            Source of randomness. With ``points="random"`` the samples of one call are
            those of any split into several calls (generators on the CPU).
        dtype, device
            Precision and place of the result; drawing itself is in float64, so that
            dtypes agree.
        weighting : {"haar", "none", "clipped"}
            Haar density over proposal density; zero; or the first cut at
            :math:`\sqrt n` times the mean weight (less variance, some bias).
        self_normalise : bool, default=False
            Make the weights sum to one.
        points : {"random", "stratified", "sobol"}
            Independent points of the unit cube that the samples are made from, a Latin
            hypercube, or a randomly shifted Sobol sequence.
        antithetic : bool, default=False
            Stretches in pairs ``exp(Y)``, ``exp(-Y)``; n is even.
        **options
            Parameters of the proposal.

        Returns
        -------
        g, g_inv : Tensor, shape (n, d, d)
            Elements and inverses, the latter from the factors.
        log_weight : Tensor, shape (n,)
            Logarithms of the weights.

        Raises
        ------
        ValueError
            An unknown option or a value out of range.
        """
        settings = haar.Options(
            proposal, generator, points, antithetic, dict(options), repr(self)
        )
        haar.check_sample_count(n, antithetic)
        check_choice(weighting, haar.WEIGHTINGS, "weighting")
        with torch.no_grad():
            settings.draw_cube(n, self._cube_dim(settings))
            g, g_inv, log_weight = self._draw(n, settings)
            settings.finish()
            log_weight = haar.weigh(log_weight, weighting, self_normalise)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        g, g_inv, log_weight = (
            x.to(dtype=dtype, device=device) for x in (g, g_inv, log_weight)
        )
        return g, g_inv, log_weight
