"""Derivatives inside ``torch.compile``: which transform is being traced.

Where a compiled function calls ``torch.func.grad``, ``jvp`` or another transform,
Dynamo inlines the forward pass of an ``autograd.Function`` and forgets its own
derivative rules, without a word. A function with such rules therefore asks
:func:`traced_order` and, if it is not zero, gives a form whose elementary operations
have the right derivatives: a Taylor polynomial about the detached input, in
:func:`change`, which is zero but for its derivative.
"""

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work.

    An ``autograd.Function`` whose backward writes into buffers knows neither; its
    caller then takes the form of elementary operations.

    Examples
    --------
    >>> is_transformed()
    False
    >>> torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
    tensor([1., 1.])
    """
    active = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0


def is_vmapped() -> bool:
    """Whether ``torch.func.vmap`` is at work, under which numbers cannot be read.

    Checks of values are left out there: no branch of Python can depend on them.

    Examples
    --------
    >>> is_vmapped()
    False
    >>> torch.func.vmap(lambda x: x + is_vmapped())(torch.zeros(2))
    tensor([1., 1.])
    """
    if not torch._C._are_functorch_transforms_active():
        return False
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(interpreter.key() == TransformType.Vmap for interpreter in stack)


@torch.compiler.assume_constant_result
def _derivatives() -> int | None:
    """Number of derivatives taken around the call; None without any transform."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    kinds = [interpreter.key() for interpreter in stack]
    forward = kinds.count(TransformType.Jvp)
    if not forward and forward_ad._current_level >= 0:
        return kinds.count(TransformType.Grad) + 1
    return forward + kinds.count(TransformType.Grad) if kinds else None


def traced_order() -> int:
    """Return how many derivatives a traced transform may take; 0 without a transform.

    One more than the transforms take, as the compiled function may be differentiated
    from outside too. Always 0 where nothing is compiled.

    >>> traced_order()
    0
    """
    derivatives = _derivatives() if torch.compiler.is_compiling() else None
    return 0 if derivatives is None else derivatives + 1


def change(x: Tensor) -> Tensor:
    """Return ``x`` minus its detached value: zero, with the derivative of ``x``.

    >>> change(torch.ones(2))
    tensor([0., 0.])
    """
    return x - x.detach()


def with_value(value: Tensor, derivative: Tensor) -> Tensor:
    """Return ``value``, a constant, with the derivatives of another tensor.

    >>> with_value(torch.ones(1), torch.zeros(1))
    tensor([1.])
    """
    return value.detach() + change(derivative)
