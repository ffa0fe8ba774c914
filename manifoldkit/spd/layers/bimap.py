"""The bilinear map between layers of SPD matrices, and its orthonormal weights."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count
from manifoldkit.linalg.checks import check_spd, check_square
from manifoldkit.linalg.symmetric import full_precision
from manifoldkit.manifolds import Stiefel, attach
from manifoldkit.spd.conditioning import transformed
from manifoldkit.spd.layers.orthonormal import (
    Reflections,
    check_weight,
    distance_to_orthonormal,
    due_for_a_look,
)


class BiMap(nn.Module):
    r"""Bilinear map to smaller SPD matrices, :math:`Y_o = \sum_c W_{oc}' X_c W_{oc}`.

    Every :math:`W_{oc}` has orthonormal columns: a point of the Stiefel manifold, which
    the optimizers of :mod:`manifoldkit.optim` keep there. With ``parametrized`` they
    are computed from unconstrained numbers, which any optimizer may step.

    Parameters
    ----------
    n_in, n_out : int
        Sizes of the matrices, ``n_out <= n_in``.
    n_in_channels, n_out_channels : int, default=1
        Numbers of channels. With 1 and 1 the matrices have no channel dimension.
    validate : bool, default=False
        Check in ``forward`` that the input is SPD.
    generator : torch.Generator, optional
        Generator of the initial weights: the orthonormal factor of a Gaussian matrix,
        uniform on the Stiefel manifold.
    device, dtype
        Device and dtype of the weights.
    parametrized : bool, default=False
        Make the weights of Householder reflections by free numbers, ``free_weight.raw``
        in the state: orthonormal by construction, also under weight decay. Each call
        computes them, a product of ``n_out`` reflections.

    Attributes
    ----------
    weight : ManifoldParameter, shape (n_out_channels, n_in_channels, n_in, n_out)
        On ``Stiefel()``; a plain Tensor with ``parametrized``.

    Raises
    ------
    ValueError
        ``n_out > n_in``, or sizes that are not positive integers.

    Warns
    -----
    UserWarning
        Once, in training: the weights have left the manifold (an entry of
        :math:`W'W - I` above 0.6), because an optimizer steps them that does not know
        it. They are looked at in every eighth call, and not in a compiled one.

    References
    ----------
    .. [1] Z. Huang, L. Van Gool, "A Riemannian network for SPD matrix learning",
       AAAI 2017, equation 5.

    Examples
    --------
    >>> layer = BiMap(4, 2)
    >>> layer(torch.eye(4).expand(3, 4, 4)).shape
    torch.Size([3, 2, 2])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_in_channels: int = 1,
        n_out_channels: int = 1,
        *,
        validate: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        parametrized: bool = False,
    ):
        super().__init__()
        self.n_in, self.n_out = check_count(n_in, "n_in"), check_count(n_out, "n_out")
        self.n_in_channels = check_count(n_in_channels, "n_in_channels")
        self.n_out_channels = check_count(n_out_channels, "n_out_channels")
        if n_out > n_in:
            raise ValueError(
                f"n_out: expected at most n_in = {n_in}, found {n_out}: a larger "
                "matrix would be singular"
            )
        self.validate = validate
        self.single = n_in_channels == n_out_channels == 1
        shape = (self.n_out_channels, self.n_in_channels, self.n_in, self.n_out)
        start = torch.eye(self.n_in, self.n_out, device=device, dtype=dtype)
        start = start.expand(shape).clone()
        if parametrized:
            self.free_weight = Reflections(start)
        else:
            self.weight = nn.Parameter(start)
            attach(self, "weight", Stiefel(), layout="as_is")
        self.reset_parameters(generator)

    #: Training calls so far, and whether a warning was given.
    _calls, _warned = 0, False

    def __getattr__(self, name: str) -> Any:
        # a parametrized weight is computed from its free numbers
        if name == "weight" and "free_weight" in self.__dict__.get("_modules", {}):
            return self.free_weight()
        return super().__getattr__(name)

    @property
    def parametrized(self) -> bool:
        """Whether the weights are computed from free numbers."""
        return "free_weight" in self._modules

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights."""
        w = self.weight
        options: dict[str, Any] = {"dtype": w.dtype, "device": w.device}
        w_new = Stiefel().random(*w.shape, generator=generator, **options)
        if self.parametrized:
            self.free_weight.assign(w_new)
        else:
            w.copy_(w_new)

    def _look(self, weight: Tensor) -> None:
        """Warn once of weights that an optimizer has taken off the manifold."""
        if torch.compiler.is_compiling() or self._warned or transformed():
            return
        self._calls += 1
        if not due_for_a_look(self._calls):
            return
        far = distance_to_orthonormal(weight.detach())
        if far is not None:
            self._warned = True
            warnings.warn(
                "BiMap: the weights have left the Stiefel manifold, |W'W - I| is "
                f"{far:.2g}: step them by an optimizer of manifoldkit.optim (or "
                "another one that knows manifolds), or set parametrized=True",
                UserWarning,
                stacklevel=3,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map matrices.

        Parameters
        ----------
        x : Tensor, shape (..., n_in, n_in), or (..., n_in_channels, n_in, n_in)
            SPD matrices; the channel dimension is there unless both numbers of channels
            are 1.

        Returns
        -------
        Tensor, shape (..., n_out, n_out), or (..., n_out_channels, n_out, n_out)
        """
        check_square(x, "x", self.n_in)
        if not self.single and (x.ndim < 3 or x.shape[-3] != self.n_in_channels):
            raise ValueError(
                f"x: expected shape (..., {self.n_in_channels}, {self.n_in}, "
                f"{self.n_in}), found {tuple(x.shape)}"
            )
        if self.validate:
            check_spd(x, "x")
        weight = self.weight
        dtype = torch.promote_types(x.dtype, check_weight(weight))
        if self.training and not self.parametrized:
            self._look(weight)
        with full_precision(x):
            y, w = x.to(dtype), weight.to(dtype)
            y = self._single(y, w[0, 0]) if self.single else self._channels(y, w)
        return y.to(x.dtype)

    @staticmethod
    def _single(x: Tensor, w: Tensor) -> Tensor:
        # X is symmetric, so (X W)' W = W' X W: two tall products with one matrix, 1.2
        # times as fast ("BiMap 93 -> 50" of benchmarks/spdnet.py)
        return (x @ w).mT.contiguous() @ w

    @staticmethod
    def _channels(x: Tensor, w: Tensor) -> Tensor:
        outputs, inputs, n, m = w.shape
        # W_1c .. W_Oc side by side: one product a channel serves all outputs, 1.3 times
        # as fast as one a pair (benchmarks/spdnet.py)
        wide = w.permute(1, 2, 0, 3).reshape(inputs, n, outputs * m)
        t = (x @ wide).unflatten(-1, (outputs, m)).movedim(-2, -4)
        tall = w.flatten(1, 2)
        return tall.mT @ t.flatten(-3, -2)

    def extra_repr(self) -> str:
        """Sizes, and channels where there are several."""
        text = f"{self.n_in}, {self.n_out}"
        if not self.single:
            text += f", channels={self.n_in_channels} -> {self.n_out_channels}"
        return text + (", parametrized=True" if self.parametrized else "")
