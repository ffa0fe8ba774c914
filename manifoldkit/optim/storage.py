"""Parameters that lie one after another in memory, so that a batch costs no copies.

Only the memory moves: every parameter stays the object it is, with its value, gradient
and place in the module. It has a storage of its own, a window of the common memory, so
that what asks for shared storage (``safetensors``, ``torch.save``) sees none. A parameter
whose memory somebody else sees (tied by ``data``, shared between processes, a piece of
a flattened module) stays where it is.
"""

from itertools import accumulate

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.autograd.graph import increment_version
from torch.utils.dlpack import from_dlpack, to_dlpack
from torch.utils.weak import WeakIdKeyDictionary

# the common memory of the parameters that have a window of one
_common: WeakIdKeyDictionary = WeakIdKeyDictionary()
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
            whole = self._adopt()
            self._whole = self._build() if whole is None else whole
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
        ends = accumulate((p.nbytes for p in self.params), initial=whole.data_ptr())
        self._addresses = list(ends)[:-1]
        return whole

    def _adopt(self) -> Tensor | None:
        """Find that the parameters lie one after another already."""
        first = self.params[0]
        source = _memory(first)
        start = end = first.data_ptr()
        for p in self.params:
            one = p.is_contiguous() and _memory(p).data_ptr() == source.data_ptr()
            if not one or p.data_ptr() != end:
                return None
            end += p.nbytes
        size, offset = (
            nbytes // first.element_size()
            for nbytes in (end - start, start - source.data_ptr())
        )
        whole = torch.empty(0, dtype=first.dtype, device=first.device)
        return self._remember(whole.set_(source, offset, (size,), (1,)))

    def _build(self) -> Tensor | None:
        """Move the parameters into new memory."""
        old = None if self._whole is None else self._whole.data_ptr()
        kinds = {(p.dtype, p.device) for p in self.params}
        if len(kinds) > 1 or not all(_movable(p, old) for p in self.params):
            return None
        whole = torch.cat([p.detach().reshape(-1) for p in self.params])
        parts = whole.split([p.numel() for p in self.params])
        try:
            windows = [_window(part) for part in parts]
        except (BufferError, RuntimeError):  # a device that DLPack does not know
            return None
        self._remember(whole)
        for p, window in zip(self.params, windows, strict=True):
            p.data = window.view(p.shape)
            _common[p] = whole
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = p.grad.contiguous()  # autograd wants equal strides
        return whole


def _window(part: Tensor) -> Tensor:
    """Return the same memory as a tensor whose storage begins and ends with it."""
    return from_dlpack(to_dlpack(part))


def _memory(p: Tensor) -> torch.UntypedStorage:
    """Return the storage that holds a parameter, or the common one of its window."""
    storage, whole = p.untyped_storage(), _common.get(p)
    if whole is None or storage.nbytes() != p.nbytes:
        return storage
    common = whole.untyped_storage()
    inside = 0 <= p.data_ptr() - common.data_ptr() <= common.nbytes() - p.nbytes
    return common if inside else storage


def _movable(p: Tensor, old: int | None) -> bool:
    """Tell whether nobody else looks at the memory of a parameter."""
    if p.layout != torch.strided or _use_count is None:
        return False
    # kernels with the channels last, and gradients in a bucket of DDP, keep strides
    fixed = p.ndim > 3 or (p.grad is not None and p.grad._is_view())
    if fixed and not p.is_contiguous():
        return False
    storage = _memory(p)
    if storage.data_ptr() == old:
        return True
    if storage.nbytes() != p.nbytes or (p.device.type == "cpu" and p.is_shared()):
        return False
    # the parameter and the object in this function; the data of p when it was made
    # through another tensor object that is alive is a third
    return _use_count(storage._cdata) <= 2
