"""Brackets of Lie algebras and the Baker-Campbell-Hausdorff series."""

from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie._arrays import array_function, check_pair
from manifoldkit.linalg.checks import common_dtype


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    check_pair(x, y, "xy")
    return common_dtype(x, y)


@array_function
def bracket(x: Tensor, y: Tensor) -> Tensor:
    r"""Lie bracket :math:`[x, y] = xy - yx`, that is :math:`\operatorname{ad}_x y`.

    The derivative at the identity of the adjoint action ``group.adjoint(g, y)``.

    Parameters
    ----------
    x, y : Tensor, shape (..., n, n)
        Matrices of a Lie algebra.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import SO
    >>> x, y, z = SO(3).hat(torch.eye(3)) * 2**0.5
    >>> torch.allclose(bracket(x, y), z)
    True
    """
    x, y = _pair(x, y)
    return x @ y - y @ x


@array_function
def bch(x: Tensor, y: Tensor, *, order: int = 2) -> Tensor:
    r"""Logarithm of ``exp(x) exp(y)`` to some order (Baker, Campbell, Hausdorff).

    .. math:: x + y + \tfrac12 [x, y] + \tfrac1{12} \big([x, [x, y]] + [y, [y, x]]\big)
              - \tfrac1{24} [y, [x, [x, y]]] + \dots

    For arguments of size t the error is of size :math:`t^{k+1}` for order k. For larger
    ones use ``group.log(group.compose(group.exp(x), group.exp(y)))``.

    Parameters
    ----------
    x, y : Tensor, shape (..., n, n)
        Matrices of a Lie algebra.
    order : {1, 2, 3, 4}
        Highest degree of the terms kept.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size, or another order.

    References
    ----------
    B. C. Hall, "Lie Groups, Lie Algebras, and Representations", 2015, section 5.6.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import SO
    >>> x, y = SO(3).hat(0.01 * torch.eye(3, dtype=torch.float64))[:2]
    >>> exact = SO(3).log(SO(3).exp(x) @ SO(3).exp(y))
    >>> bool((bch(x, y, order=4) - exact).abs().max() < 1e-11)
    True
    """
    x, y = _pair(x, y)
    check_choice(order, (1, 2, 3, 4), "order")
    out = x + y
    if order == 1:
        return out
    c = x @ y - y @ x
    out = out + c / 2
    if order == 2:
        return out
    xc, yc = x @ c - c @ x, y @ c - c @ y
    out = out + (xc - yc) / 12
    return out if order == 3 else out - (y @ xc - xc @ y) / 24
