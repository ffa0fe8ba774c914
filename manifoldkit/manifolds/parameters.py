"""Parameters that live on manifolds, and how modules keep them there."""

import warnings
from typing import cast

import geoopt
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from manifoldkit._checks import check_choice
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.manifolds.base import check_point_argument
from manifoldkit.manifolds.euclidean import Euclidean
from manifoldkit.manifolds.reshaped import Reshaped
from manifoldkit.manifolds.tensors import ManifoldParameter, ManifoldTensor

_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
LAYOUTS = ("auto", "as_is", "transpose", "flatten", "flatten_transpose")


def manifold_of(parameter: Tensor) -> geoopt.Manifold:
    """Return the manifold of a tensor; :class:`Euclidean` for a plain one.

    Parameters
    ----------
    parameter : Tensor
        Any tensor.

    Returns
    -------
    geoopt.Manifold

    Examples
    --------
    >>> manifold_of(torch.nn.Parameter(torch.zeros(3)))
    Euclidean(ndim=0)
    """
    manifold = getattr(parameter, "manifold", None)
    return manifold if isinstance(manifold, geoopt.Manifold) else Euclidean()


def _violation(x: Tensor, manifold: geoopt.Manifold) -> str | None:
    """What is wrong with the values of x, or None."""
    bound = _TOLERANCE.get(x.dtype, 1e-5)
    with torch.no_grad():
        y = x.detach().float() if x.dtype in _TOLERANCE else x.detach()
        ok, reason = manifold._check_point_on_manifold(y, atol=bound, rtol=bound)
    return None if ok else reason


def valid_point(tensor: Tensor, manifold: geoopt.Manifold, project: bool) -> Tensor:
    """Values of a tensor on the manifold, projected if asked; else raise."""
    check_point_argument(tensor, manifold, "tensor")
    x = tensor.detach()
    if project and bool(torch.isfinite(x).all()):
        with torch.no_grad():
            wide = x.float() if x.dtype in _TOLERANCE else x
            x = manifold.projx(wide).to(x.dtype)
    reason = _violation(x, manifold)
    if reason:
        hint = "" if project else "; project=True takes the nearest point"
        raise NotOnManifoldError(
            f"tensor of shape {tuple(tensor.shape)} is not on {manifold}: "
            f"{reason}{hint}"
        )
    return x


def as_parameter(
    tensor: Tensor,
    manifold: geoopt.Manifold,
    project: bool = True,
    requires_grad: bool = True,
) -> ManifoldParameter:
    """Make a parameter on a manifold from a tensor.

    Parameters
    ----------
    tensor : Tensor, shape (..., point)
        Values; leading dimensions hold several points.
    manifold : geoopt.Manifold
        Ours or geoopt's.
    project : bool, default=True
        Take the nearest point of the manifold. Otherwise the values must be on it.
    requires_grad : bool, default=True
        Whether gradients are computed for it.

    Returns
    -------
    ManifoldParameter
        geoopt's class: an ``nn.Parameter`` with an attribute ``manifold``.

    Raises
    ------
    NotImplementedError
        Complex numbers.
    TypeError
        Not a tensor, or integers.
    ValueError
        A shape that the manifold does not take, values that are not finite, or values
        off the manifold that were not to be, or cannot be, projected.

    Examples
    --------
    >>> from manifoldkit.manifolds import Stiefel
    >>> w = as_parameter(torch.tensor([[2., 0.], [0., 3.], [0., 0.]]), Stiefel())
    >>> w.data
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    if not isinstance(manifold, geoopt.Manifold):
        raise TypeError(f"manifold: expected a geoopt.Manifold, found {manifold!r}")
    x = valid_point(tensor, manifold, project).contiguous()
    return ManifoldParameter(x, manifold=manifold, requires_grad=requires_grad)


def _convert(parameter: torch.nn.Parameter, manifold: geoopt.Manifold) -> None:
    """Make a parameter a ManifoldParameter in place.

    The object stays the same, so tied weights and optimizers that hold it follow.
    """
    parameter.__class__ = ManifoldParameter
    setattr(parameter, "manifold", manifold)  # noqa: B010 (not of its old class)


class _KeepManifold:
    """Module hook that restores the constraint of a parameter where torch drops it.

    ``load_state_dict(assign=True)`` and the conversion flags of ``torch.__future__``
    replace a ManifoldParameter by a plain one, and a checkpoint may hold values off
    the manifold. A tensor that only stands in for the parameter (the caller's in
    ``functional_call``, a tracer's in ``torch.export``) is left as it is. A class, not
    a closure: it is copied and pickled with its module.
    """

    def __init__(self, name: str, manifold: geoopt.Manifold, parameter: Tensor):
        self.name, self.manifold = name, manifold
        self._known: Tensor | None = parameter

    def __getstate__(self) -> dict:
        """Copies and pickles hold another parameter."""
        return self.__dict__ | {"_known": None}

    def __setstate__(self, state: dict) -> None:
        """Accept what was pickled before parameters were told from stand-ins."""
        self.__dict__.update({"_known": None} | state)

    def restore(self, module: torch.nn.Module) -> None:
        """Convert a parameter that became a plain one."""
        parameter = module._parameters.get(self.name)
        if parameter is None:
            return
        if isinstance(parameter, ManifoldTensor):
            self.manifold = parameter.manifold
        elif type(parameter) is torch.nn.Parameter:
            _convert(parameter, self.manifold)
        else:
            return
        self._known = parameter

    def after_load(self, module: torch.nn.Module, _incompatible_keys) -> None:
        """Convert, and project loaded values that are off the manifold."""
        self.restore(module)
        parameter = module._parameters.get(self.name)
        if parameter is None or parameter.is_meta:
            return
        reason = _violation(parameter, self.manifold)
        if reason:
            values = valid_point(parameter.data, self.manifold, project=True)
            parameter.data.copy_(values)
            warnings.warn(
                f"{type(module).__name__}.{self.name} was loaded with values off "
                f"{self.manifold} ({reason}) and projected to it",
                UserWarning,
                stacklevel=2,
            )

    def before_forward(self, module: torch.nn.Module, _arguments) -> None:
        """Convert before the parameter is used, unless another one stands in for it.

        A conversion gives the parameter another dtype or device, or keeps its memory.
        """
        if torch.compiler.is_compiling():
            return
        parameter, known = module._parameters.get(self.name), self._known
        if type(parameter) is ManifoldParameter:
            self._known = parameter
        elif type(parameter) is torch.nn.Parameter and (
            known is None
            or (parameter.dtype, parameter.device) != (known.dtype, known.device)
            or parameter.data_ptr() == known.data_ptr()
        ):
            self.restore(module)


def weight_view(
    module: torch.nn.Module, shape: torch.Size, manifold: geoopt.Manifold, layout: str
) -> geoopt.Manifold:
    """Wrap the manifold for the shape of the weight."""
    if layout == "auto":
        flatten = isinstance(module, _ConvNd) and len(shape) > max(manifold.ndim, 1)
        flatten = flatten and manifold.ndim in (1, 2)
    else:
        flatten = layout.startswith("flatten")
    point = tuple(shape)
    if flatten and manifold.ndim == 1:
        point = point[1:]
    elif not flatten:
        point = point[len(point) - manifold.ndim :] if manifold.ndim else ()
    transpose = layout in ("transpose", "flatten_transpose")
    if manifold.ndim == 2 and layout == "auto" and len(point) >= 2:
        plain = Reshaped(manifold, point, flatten=flatten)
        turned = Reshaped(manifold, point, flatten=flatten, transpose=True)
        transpose = (
            not plain._check_shape(point, "weight")[0]
            and turned._check_shape(point, "weight")[0]
        )
    if transpose and manifold.ndim != 2:
        raise ValueError(f"layout: {manifold} has no matrices to transpose")
    if not flatten and not transpose:
        return manifold
    return Reshaped(manifold, point, flatten=flatten, transpose=transpose)


def find_parameter(
    module: torch.nn.Module, name: str
) -> tuple[torch.nn.Module, str, torch.nn.Parameter]:
    """Return the submodule that owns a parameter, its name there and the parameter.

    Raises
    ------
    AttributeError
        There is no such submodule or parameter.
    ValueError
        The parameter of a lazy module that was not yet run.
    """
    path, _, name = name.rpartition(".")
    owner = module.get_submodule(path)
    parameter = owner._parameters.get(name)
    if parameter is None:
        raise AttributeError(
            f"{type(owner).__name__} has no parameter {name!r}, "
            f"only {sorted(owner._parameters)}"
        )
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
        raise ValueError(f"{name}: run the lazy module once before attaching")
    return owner, name, parameter


def attach(
    module: torch.nn.Module,
    name: str,
    manifold: geoopt.Manifold,
    layout: str = "auto",
    project: bool = True,
) -> ManifoldParameter:
    """Put an existing parameter of a module on a manifold, in place.

    The parameter object, its name and its entry in ``state_dict`` stay what they are,
    so tied weights, optimizers that hold it and checkpoints of the plain module keep
    working. The constraint survives ``load_state_dict`` (also with ``assign=True``;
    loaded values off the manifold are projected with a warning), ``.to()``,
    ``copy.deepcopy`` and pickling.

    Parameters
    ----------
    module : nn.Module
        The owner.
    name : str
        Name of the parameter; may lead through submodules, as ``"encoder.0.weight"``.
    manifold : geoopt.Manifold
        Ours or geoopt's.
    layout : {"auto", "as_is", "transpose", "flatten", "flatten_transpose"}
        How the stored weight is read as a point. ``"auto"``: kernels of convolutions
        are flattened to (out, in * kernel), and a matrix whose shape the manifold
        refuses is transposed, so that a linear weight (out, in) has orthonormal
        columns on :class:`Stiefel` if out >= in and orthonormal rows otherwise.
    project : bool, default=True
        Project the current values; otherwise they must be on the manifold.

    Returns
    -------
    ManifoldParameter
        The parameter. Its ``manifold`` is a :class:`Reshaped` view of the one given if
        the layout differs.

    Raises
    ------
    AttributeError
        The module has no such parameter.
    ValueError
        Unknown layout, a shape that does not fit, or values off the manifold.

    Notes
    -----
    A learned matrix of the manifold (``SPD("gbw", M=...)``) is a parameter of the
    manifold module: register that on the model too, or it is not trained.

    Examples
    --------
    >>> from manifoldkit.manifolds import Stiefel
    >>> layer = torch.nn.Linear(5, 3, bias=False)
    >>> weight = attach(layer, "weight", Stiefel())
    >>> torch.allclose(layer.weight @ layer.weight.mT, torch.eye(3), atol=1e-6)
    True
    """
    check_choice(layout, LAYOUTS, "layout")
    if not isinstance(manifold, geoopt.Manifold):
        raise TypeError(f"manifold: expected a geoopt.Manifold, found {manifold!r}")
    module, name, parameter = find_parameter(module, name)
    view = weight_view(module, parameter.shape, manifold, layout)
    parameter.data = valid_point(parameter, view, project).contiguous()
    _convert(parameter, view)
    keeper = _KeepManifold(name, view, parameter)
    module.register_load_state_dict_post_hook(keeper.after_load)
    module.register_forward_pre_hook(keeper.before_forward)
    return cast(ManifoldParameter, parameter)
