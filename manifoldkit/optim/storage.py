"""Parameters as consecutive views of one tensor, so that a batch costs no copies.

Only the memory moves: every parameter stays the object it is, with its value, gradient
and place in the module. A parameter whose memory somebody else sees (tied by ``data``,
shared between processes, a piece of a flattened module) stays where it is.
"""

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.autograd.graph import increment_version

_use_count = getattr(torch._C, "_storage_Use_Count", None)


class SharedStorage:
    """One tensor behind several parameters.

    Parameters
    ----------
    params : list of Tensor
        Parameters of one dtype and device.
    """

    def __init__(self, params: list[Tensor]):
        self.params = params
        self._whole: Tensor | None = None
        self._views: list[Tensor] = []
        self._addresses: list[int] = []
        self._shapes = [p.shape for p in params]
        self._vectors = all(p.ndim < 2 for p in params)
        self._refused = False

    @property
    def current(self) -> bool:
        """Whether the last :meth:`read` found or made the parameters views."""
        return self._whole is not None

    def read(self) -> Tensor | None:
        """Return the tensor, or None where the parameters cannot be its views.

        A parameter that was given other memory since (``p.data = ...``) is read again.
        """
        if self._refused or torch.compiler.is_compiling():
            self._whole = None
            return None
        if self._whole is None or not self._unchanged():
            if self._shapes != [p.shape for p in self.params]:
                raise RuntimeError("a parameter has changed its shape")
            self._whole = self._adopt()
            if self._whole is None:
                self._whole = self._build()
            self._refused = self._whole is None
        return self._whole

    def write(self, x: Tensor, rows: Tensor | None, active: list[int] | None) -> None:
        """Store points (some of their rows), and tell autograd of the change."""
        whole = self._whole
        if whole is None:
            raise RuntimeError("write without a read")
        points = whole.view(-1, *x.shape[1:])
        if rows is not None:
            points[rows] = x.to(points.dtype)
        elif x.data_ptr() != points.data_ptr():
            points.copy_(x)
        params = self.params
        increment_version(params if active is None else [params[i] for i in active])

    def _unchanged(self) -> bool:
        with DisableTorchFunctionSubclass():  # twice as fast for subclasses
            if list(map(Tensor.data_ptr, self.params)) != self._addresses:
                return False
            # an address does not tell a matrix from its transpose
            return self._vectors or all(map(Tensor.is_contiguous, self.params))

    def _remember(self, whole: Tensor) -> Tensor:
        parts = whole.split([p.numel() for p in self.params])
        pairs = zip(parts, self.params, strict=True)
        self._views = [part.view(p.shape) for part, p in pairs]
        self._addresses = [view.data_ptr() for view in self._views]
        return whole

    def _adopt(self) -> Tensor | None:
        """Find that the parameters lie one after another already."""
        first = self.params[0]
        memory = first.untyped_storage().data_ptr()
        end = first.data_ptr()
        for p in self.params:
            one = p.is_contiguous() and p.untyped_storage().data_ptr() == memory
            if not one or p.data_ptr() != end:
                return None
            end += p.nbytes
        size = (end - first.data_ptr()) // first.element_size()
        return self._remember(first.detach().as_strided((size,), (1,)))

    def _build(self) -> Tensor | None:
        """Move the parameters into new memory."""
        old = None
        if self._views:
            old = self._views[0].untyped_storage().data_ptr()
        kinds = {(p.dtype, p.device) for p in self.params}
        if len(kinds) > 1 or not all(_movable(p, old) for p in self.params):
            return None
        whole = torch.cat([p.detach().reshape(-1) for p in self.params])
        self._remember(whole)
        for p, view in zip(self.params, self._views, strict=True):
            p.data = view
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = p.grad.contiguous()  # autograd wants equal strides
        return whole


def _movable(p: Tensor, old: int | None) -> bool:
    """Tell whether nobody else looks at the memory of a parameter."""
    if p.layout != torch.strided or _use_count is None:
        return False
    # kernels with the channels last, and gradients in a bucket of DDP, keep strides
    fixed = p.ndim > 3 or (p.grad is not None and p.grad._is_view())
    if fixed and not p.is_contiguous():
        return False
    storage = p.untyped_storage()
    if storage.data_ptr() == old:
        return True
    if storage.nbytes() != p.nbytes or (p.device.type == "cpu" and p.is_shared()):
        return False
    # the parameter and the object in this function; the data of p when it was made
    # through another tensor object that is alive is a third
    return _use_count(storage._cdata) <= 2
