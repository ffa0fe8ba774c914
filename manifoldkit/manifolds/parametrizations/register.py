"""Parametrize a weight of a module by a manifold, for any optimizer of torch."""

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from manifoldkit._checks import check_choice, check_count
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.linalg.frechet import full_precision
from manifoldkit.manifolds.euclidean import Euclidean, PositiveReals
from manifoldkit.manifolds.general_linear import GLPlus, SpecialLinear
from manifoldkit.manifolds.grassmann import Grassmann
from manifoldkit.manifolds.low_rank.fixed_rank import FixedRank
from manifoldkit.manifolds.low_rank.psd_fixed_rank import PSDFixedRank
from manifoldkit.manifolds.parameters import (
    LAYOUTS,
    find_parameter,
    valid_point,
    weight_view,
)
from manifoldkit.manifolds.parametrizations import charts
from manifoldkit.manifolds.product import Product
from manifoldkit.manifolds.reshaped import Reshaped
from manifoldkit.manifolds.spd.common import SPD
from manifoldkit.manifolds.special_orthogonal import SpecialOrthogonal
from manifoldkit.manifolds.sphere import Sphere
from manifoldkit.manifolds.stiefel.manifold import Stiefel
from manifoldkit.manifolds.tensors import ManifoldParameter


def _spd_chart(manifold: SPD) -> charts.Chart:
    """Return the chart in which the metric is flat, if there is one."""
    flat = manifold.metric == "log_euclidean"
    return charts.LogEuclidean() if flat else charts.LogCholesky()


_CHARTS = {
    Euclidean: lambda m: charts.Chart(),
    PositiveReals: lambda m: charts.Positive(),
    Sphere: charts.UnitVectors,  # Oblique too
    Stiefel: lambda m: charts.Orthonormal(),
    Grassmann: lambda m: charts.Orthonormal(),
    SpecialOrthogonal: lambda m: charts.Rotation(),
    SPD: _spd_chart,
    GLPlus: lambda m: charts.RotationTimesTriangle(unit_determinant=False),
    SpecialLinear: lambda m: charts.RotationTimesTriangle(unit_determinant=True),
    FixedRank: lambda m: charts.LowRank(m.m, m.n, m.r),
    PSDFixedRank: lambda m: charts.LowRankPSD(m.n, m.r),
    Product: lambda m: charts.Packed(m, [chart_of(f) for f in m.factors]),
    Reshaped: lambda m: charts.Stored(m, chart_of(m.base)),
}


def chart_of(manifold: geoopt.Manifold) -> charts.Chart:
    """Return the chart of a manifold.

    Raises
    ------
    TypeError
        A manifold that has none.

    Examples
    --------
    >>> chart_of(PositiveReals()).raw(torch.ones(2))
    tensor([0., 0.])
    """
    for kind, build in _CHARTS.items():
        if isinstance(manifold, kind):
            return build(manifold)
    known = ", ".join(kind.__name__ for kind in _CHARTS if kind is not Reshaped)
    raise TypeError(
        f"manifold: expected one that has a parametrization ({known}, Oblique), "
        f"found {manifold!r}"
    )


class ManifoldParametrization(nn.Module):
    """A parametrization of torch whose values are points of a manifold."""

    def __init__(
        self, manifold: geoopt.Manifold, chart: charts.Chart, project: bool
    ) -> None:
        super().__init__()
        # no submodule: nothing of the manifold is trained or saved with the weight
        self.__dict__["manifold"] = manifold
        self.chart, self.project = chart, project

    def forward(self, raw: Tensor) -> Tensor:
        """Return the point of raw values, computed in float32 at least."""
        with full_precision(raw):
            return self.chart.point(raw.to(compute_dtype(raw.dtype))).to(raw.dtype)

    def valid(self, value: Tensor) -> Tensor:
        """Return the values as a point, projected if asked; else raise."""
        return valid_point(value, self.manifold, self.project)

    @torch.no_grad()
    def right_inverse(self, value: Tensor) -> Tensor:
        """Return raw values whose point is the one given."""
        with full_precision(value):
            x = self.valid(value)
            return self.chart.raw(x.to(compute_dtype(x.dtype))).to(x.dtype).contiguous()

    def extra_repr(self) -> str:
        """The manifold."""
        return repr(self.manifold)


class ProjectorParametrization(ManifoldParametrization):
    """Values are projectors to subspaces, matrices (..., n, n)."""

    chart: charts.Projector

    def valid(self, value: Tensor) -> Tensor:
        """Return the nearest projector, or raise."""
        size = value.shape[-1]
        if value.ndim < 2 or value.shape[-2] != size or size < self.chart.rank:
            raise ValueError(
                "weight: expected projectors (..., n, n) with n >= projector_rank = "
                f"{self.chart.rank}, found shape {tuple(value.shape)}"
            )
        wide = value.detach().to(compute_dtype(value.dtype))
        if not bool(torch.isfinite(wide).all()):
            raise NotOnManifoldError("weight: it contains NaN or infinity")
        nearest = self.chart.point(self.chart.raw(wide)).to(value.dtype)
        gap = float((nearest.to(wide) - wide).abs().max()) if wide.numel() else 0.0
        if not self.project and gap > 2e-5:
            raise NotOnManifoldError(
                f"weight: not a projector of rank {self.chart.rank}: the nearest one "
                f"differs by {gap:.1e}; project=True takes it"
            )
        return nearest


def parametrize(
    module: nn.Module,
    name: str,
    manifold: geoopt.Manifold,
    *,
    layout: str = "auto",
    project: bool = True,
    projector_rank: int | None = None,
) -> nn.Module:
    r"""Make a weight of a module a function of free numbers, with values on a manifold.

    A parametrization of ``torch.nn.utils.parametrize``: ``module.weight`` is computed
    from ``module.parametrizations.weight.original``, which any optimizer may step, with
    any weight decay, and is on the manifold by construction. Assigning
    ``module.weight = x`` works and gives x back to rounding, for every point x.

    ===================== =========================================== ==================
    manifold              map of the raw values                       their shape
    ===================== =========================================== ==================
    Sphere, Oblique       scaled to the radius                        that of the weight
    Stiefel, Grassmann    nearest orthonormal matrix (polar factor)   that of the weight
    Grassmann, projector  :math:`QQ'` of that                         (n, p)
    SpecialOrthogonal     nearest rotation                            that of the weight
    SPD                   :math:`LL'`, logarithms on the diagonal     that of the weight
    SPD, log_euclidean    matrix exponential of the symmetric part    that of the weight
    PositiveReals         exponential                                 that of the weight
    GLPlus, SpecialLinear rotation times a triangle, exp(diagonal)    (n, 2n)
    FixedRank             :math:`U T V'`, polar factors and triangle  (m + n + r, r)
    PSDFixedRank          :math:`(UL)(UL)'`                           (n + r, r)
    Product               that of each factor                         packed
    ===================== =========================================== ==================

    Parameters
    ----------
    module : nn.Module
        The owner.
    name : str
        Name of the parameter; may lead through submodules, as ``"encoder.0.weight"``.
    manifold : geoopt.Manifold
        One of the table.
    layout : {"auto", "as_is", "transpose", "flatten", "flatten_transpose"}
        How the weight is read as a point; see :func:`attach`.
    project : bool, default=True
        Take the nearest point for values that are assigned, the present ones included;
        otherwise they must be on the manifold.
    projector_rank : int, optional
        For :class:`Grassmann`: the weight is not a basis but the (n, n) projector to a
        subspace of this dimension.

    Returns
    -------
    nn.Module
        The module itself. ``torch.nn.utils.parametrize.remove_parametrizations`` turns
        the weight into a plain parameter again, with its present value.

    Raises
    ------
    AttributeError
        The module has no such parameter.
    TypeError
        A manifold that is not in the table.
    ValueError
        A shape that does not fit, values off the manifold, a parameter that is
        :func:`attach`-ed to a manifold, or a projector of something else.

    Notes
    -----
    The whole manifold is reached: every point is its own raw value or has one by a
    stable factorization, half turns and antipodes included. What is left out is on
    the other side, raw values without a point of their own, a set of measure zero that
    training does not meet but an assignment to ``original`` may: the zero vector for a
    sphere, matrices without full column rank for polar factors (there the gradient is
    not defined), and for rotations those whose least singular value, with the sign of
    the determinant, cancels the next.

    Scale does not matter for spheres, polar factors and rotations, so weight decay
    changes nothing but the effective step; elsewhere it pulls logarithms to zero.
    The parameter stays the same object, but takes the shape of the table: build the
    optimizer afterwards.

    The map is evaluated at every access; ``torch.nn.utils.parametrize.cached()`` keeps
    the value. It runs in float32 at least, under autocast too, and the result has the
    dtype of the weight: a bfloat16 weight is on the manifold to bfloat16's rounding.
    As for every parametrization of torch, save and load by ``state_dict``; ``deepcopy``
    works, pickling the module does not.

    Examples
    --------
    >>> from manifoldkit.manifolds import Stiefel
    >>> layer = parametrize(torch.nn.Linear(5, 3), "weight", Stiefel())
    >>> optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=1.0)
    >>> layer(torch.ones(2, 5)).square().sum().backward()
    >>> optimizer.step()
    >>> torch.allclose(layer.weight @ layer.weight.mT, torch.eye(3), atol=1e-6)
    True
    """
    check_choice(layout, LAYOUTS, "layout")
    if not isinstance(manifold, geoopt.Manifold):
        raise TypeError(f"manifold: expected a geoopt.Manifold, found {manifold!r}")
    owner, name, parameter = find_parameter(module, name)
    if isinstance(parameter, ManifoldParameter):
        raise ValueError(
            f"{name}: it is attached to {parameter.manifold}; a parametrization needs "
            "a plain parameter"
        )
    if projector_rank is not None:
        rank = check_count(projector_rank, "projector_rank")
        if not isinstance(manifold, Grassmann):
            raise ValueError(f"projector_rank: is of Grassmann alone, found {manifold}")
        step: ManifoldParametrization = ProjectorParametrization(
            manifold, charts.Projector(rank), project
        )
    else:
        view = weight_view(owner, parameter.shape, manifold, layout)
        step = ManifoldParametrization(view, chart_of(view), project)
    step.valid(parameter)  # before torch changes anything
    register_parametrization(owner, name, step)
    return module
