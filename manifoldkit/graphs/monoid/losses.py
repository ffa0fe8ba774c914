"""Penalties that teach an operator the laws of a commutative monoid.

Means over rows and features, so that a weight means the same at any width. Start with
1e-3 or less and raise it after the task is learned: a strong penalty from the start
keeps an operator from learning anything.
"""

import torch
from torch import Tensor

from manifoldkit.graphs.monoid.plan import Operator
from manifoldkit.linalg.checks import check_last


def _check_rows(**values: Tensor) -> None:
    """Raise unless all are floating point, of one shape (m, dim)."""
    for name, value in values.items():
        check_last(value, ("m", "dim"), name)
    if len({value.shape for value in values.values()}) > 1:
        found = ", ".join(str(tuple(value.shape)) for value in values.values())
        raise ValueError(f"{', '.join(values)}: expected equal shapes, found {found}")


def commutativity_loss(operator: Operator, a: Tensor, b: Tensor) -> Tensor:
    r"""Return the mean of :math:`(f(a, b) - f(b, a))^2`.

    Parameters
    ----------
    operator : callable
        Not symmetrized; the operators of this package commute by construction.
    a, b : Tensor of shape (m, dim)

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> a, b = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    >>> commutativity_loss(torch.sub, a, b).item()
    16.0
    """
    _check_rows(a=a, b=b)
    return (operator(a, b) - operator(b, a)).square().mean()


def associativity_loss(operator: Operator, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    r"""Return the mean of :math:`(f(f(a, b), c) - f(a, f(b, c)))^2`.

    Parameters
    ----------
    operator : callable
    a, b, c : Tensor of shape (m, dim)
        Elements or inner nodes of the trees.

    Returns
    -------
    Tensor, scalar

    References
    ----------
    Ong and Velickovic, LoG 2022, section on regularizing the operator.

    Examples
    --------
    >>> a, b, c = torch.randn(3, 5, 2)
    >>> bool(associativity_loss(torch.maximum, a, b, c) == 0)
    True
    """
    _check_rows(a=a, b=b, c=c)
    left = operator(operator(a, b), c)
    return (left - operator(a, operator(b, c))).square().mean()


def identity_loss(
    operator: Operator, a: Tensor, identity: Tensor | None = None
) -> Tensor:
    r"""Return the mean of :math:`(f(a, e) - a)^2`.

    Parameters
    ----------
    operator : callable
    a : Tensor of shape (m, dim)
    identity : Tensor of shape (dim,), optional
        Default: ``operator.identity``.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    ValueError
        No identity is given and the operator has none.

    Examples
    --------
    >>> a = torch.randn(5, 2)
    >>> identity_loss(torch.add, a, torch.zeros(2)).item()
    0.0
    """
    _check_rows(a=a)
    if identity is None:
        identity = getattr(operator, "identity", None)
    if identity is None:
        raise ValueError("identity: expected a tensor, as the operator has none")
    if not isinstance(identity, Tensor | float | int):
        raise TypeError(f"identity: expected a tensor, found {identity!r}")
    if isinstance(identity, Tensor) and identity.is_complex():
        raise TypeError(f"identity: expected real numbers, found {identity.dtype}")
    e = torch.as_tensor(identity, dtype=a.dtype, device=a.device)
    if e.ndim > 1 or (e.ndim and e.shape[-1] not in (1, a.shape[-1])):
        raise ValueError(
            f"identity: expected shape ({a.shape[-1]},), found {tuple(e.shape)}"
        )
    e = e.expand_as(a)
    return (operator(a, e) - a).square().mean()
