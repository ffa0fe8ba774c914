"""Batch normalization with statistics of each domain: subject, session, device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, check_interval
from manifoldkit.linalg.checks import check_square
from manifoldkit.spd.batchnorm.base import BatchNormBase, Statistics
from manifoldkit.spd.batchnorm.factory import make_batchnorm

_UNSEEN = ("error", "adapt")
_BUFFERS = (
    "domain_ids",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "train_mean",
    "train_var",
)
#: Steps towards the mean of all matrices of a domain.
_STEPS = 30


class DomainBatchNorm(nn.Module):
    r"""Batch normalization in which every domain has its own statistics.

    Domains (subjects, sessions, devices) differ in their mean and dispersion: each is
    centered at its own mean :math:`G_d` and scaled by its own variance, then all share
    one bias, one scale and one metric. Matrices of a batch are split by domain, and
    those of one domain never change the output of another.

    Parameters
    ----------
    n : int
        Size of the matrices.
    geometry : str, default="airm"
        Name of the normalization, as in :func:`~manifoldkit.spd.make_batchnorm`.
    domains : sequence of int, default=()
        Domains to begin with. Training adds those that it meets.
    momentum : float or None, default=0.1
        Weight of a batch in the running statistics of its domain, which evaluation
        uses; None for their plain average.
    train_momentum : float, default=1
        Weight of a batch in the statistics that training normalizes by; 1 takes those
        of the batch alone. The momentum batch normalization of TSMNet lowers it from 1
        while it trains, see :meth:`schedule_momentum`.
    unseen : {"error", "adapt"}, default="error"
        Evaluation on a domain without statistics: raise, or take the statistics of its
        matrices in the call (at least two), which are not kept.
    **options
        Options of the normalization.

    Attributes
    ----------
    norm : GBWBatchNorm or SPDBatchNorm
        Has the shared ``bias``, ``scale`` and ``metric``.
    domain_ids : Tensor, shape (n_domains,)
        Numbers of the domains, in the order of the statistics.
    running_mean, train_mean : Tensor, shape (n_domains, n, n)
        Means for evaluation and for training, in the unit of the input; with
        ``n_channels`` of shape (n_domains, n_channels, n, n).
    running_var, train_var : Tensor, shape (n_domains,), or (n_domains, n_channels)
    num_batches_tracked : Tensor, shape (n_domains,)

    Raises
    ------
    ValueError
        Settings out of range; domains that do not fit the matrices; in training fewer
        than two matrices of a domain; in evaluation a domain without statistics.
    TypeError
        Domains that are no integers.

    Notes
    -----
    With one domain this is the normalization of its geometry. In the affine-invariant
    geometries a congruence :math:`X \to AXA'` of a whole domain rotates its output and
    changes nothing else; "lie" does not even rotate it where A is lower triangular with
    a positive diagonal. Between processes statistics are shared after
    :func:`~manifoldkit.spd.convert_sync_batchnorm`; with ``DistributedDataParallel``
    name all ``domains`` at the beginning, and a process may be without some of them.
    Weights with other numbers of domains load. Under ``torch.compile`` this layer
    runs as it is, between compiled parts.

    References
    ----------
    .. [1] R. Kobler et al., "SPD domain-specific batch normalization to crack
       interpretable unsupervised domain adaptation in EEG", NeurIPS 2022.

    Examples
    --------
    >>> layer = DomainBatchNorm(3, "airm-mean", affine=False)
    >>> x = torch.eye(3) * torch.linspace(1, 2, 8)[:, None, None]
    >>> domains = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> torch.allclose(layer(x, domains), layer(5 * x, domains))
    True
    >>> layer.eval().adapt(100 * x, 7)(100 * x, 7).shape
    torch.Size([8, 3, 3])
    """

    domain_ids: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    train_mean: Tensor
    train_var: Tensor

    def __init__(
        self,
        n: int,
        geometry: str = "airm",
        *,
        domains: Sequence[int] = (),
        momentum: float | None = 0.1,
        train_momentum: float = 1.0,
        unseen: str = "error",
        **options: Any,
    ):
        super().__init__()
        norm = make_batchnorm(geometry, n, momentum=momentum, **options)
        if not isinstance(norm, BatchNormBase):
            raise ValueError(
                f"geometry: expected the name of a normalization, found {geometry!r}"
            )
        if not norm.track_running_stats:
            raise ValueError("track_running_stats: expected True, each domain has its")
        self.geometry, self.norm = geometry, norm
        self.unseen = check_choice(unseen, _UNSEEN, "unseen")
        self.train_momentum = check_interval(train_momentum, "train_momentum", 0, 1)
        if train_momentum != 1 and norm.stats_grad:
            raise ValueError(
                "stats_grad: expected False with a train_momentum below 1, whose "
                "statistics are constants"
            )
        mean, var, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        for name, value in zip(
            _BUFFERS, (count, mean, var, count, mean, var), strict=True
        ):
            empty = value[None][:0].clone()  # type: ignore[index]
            self.register_buffer(name, empty)
        self._add(sorted({_number(d) for d in domains}))

    @property
    def domains(self) -> list[int]:
        """Numbers of the domains that have statistics, or were named."""
        return self.domain_ids.tolist()

    @property
    def momentum(self) -> float | None:
        """Weight of a batch in the running statistics of its domain."""
        return self.norm.momentum

    @torch.no_grad()
    def _add(self, new: Sequence[int]) -> None:
        """Give domains their rows, at the identity."""
        if not new:
            return
        k, bias, scale = len(new), self.norm.bias, self.norm.scale
        eye = torch.eye(self.norm.n, dtype=bias.dtype, device=bias.device)
        eye = eye.expand(k, *bias.shape)
        ones = scale.new_ones(k, *scale.shape)
        ids = torch.tensor(list(new), device=self.domain_ids.device)
        rows = (ids, eye, ones, torch.zeros_like(ids), eye, ones)
        for name, row in zip(_BUFFERS, rows, strict=True):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, row.to(old)]))

    def statistics(self, domain: int) -> Statistics:
        """Statistics of a domain that has a row; views, to be written in place."""
        row = self.domains.index(domain)
        return Statistics(
            self.running_mean[row],
            self.running_var[row],
            self.num_batches_tracked[row],
            self.train_mean[row],
            self.train_var[row],
            self.train_momentum,
        )

    @contextmanager
    def with_mean(self, domain: int, mean: Tensor) -> Iterator[None]:
        """Let evaluation differentiate through the mean of a domain."""
        self._given = {domain: mean}
        try:
            yield
        finally:
            self._given = {}

    #: Means that stand in for those of the buffers.
    _given: dict[int, Tensor] = {}  # noqa: RUF012

    def _known(self) -> set[int]:
        counts = self.num_batches_tracked.tolist()
        return {d for d, count in zip(self.domains, counts, strict=True) if count}

    def _labels(self, x: Tensor, domains: Any) -> Tensor:
        """Domain of each item, shape (items,)."""
        channels = self.norm.n_channels
        lead = x.shape[:-2] if channels is None else x.shape[:-3]
        labels = torch.as_tensor(domains, device=x.device)
        kind = labels.dtype
        if kind == torch.bool or kind.is_floating_point or kind.is_complex:
            if labels.numel():
                raise TypeError(f"domains: expected integers, found {kind}")
            labels = labels.long()
        try:
            return labels.broadcast_to(lead).reshape(-1)
        except RuntimeError:
            raise ValueError(
                f"domains: expected shape {tuple(lead)}, one a matrix, "
                f"found {tuple(labels.shape)}"
            ) from None

    def _present(self, labels: Tensor) -> list[int]:
        """Domains of the batch, or those of the batches of all processes."""
        present = set(labels.unique().tolist())
        norm = self.norm
        if norm.synchronized and self.training and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size(norm.process_group)
            dist.all_gather_object(parts, present, group=norm.process_group)
            present = set().union(*parts)
        return sorted(present)

    def forward(self, x: Tensor, domains: Any, weights: Tensor | None = None) -> Tensor:
        """Normalize every matrix by its domain; in training update the statistics.

        Parameters
        ----------
        x : Tensor, shape (..., n, n), or (..., n_channels, n, n)
            SPD matrices.
        domains : Tensor of integers, sequence of int, or int
            Domain of each matrix, of a shape that broadcasts to that of x without
            (n, n), and without the channels.
        weights : Tensor, optional
            Weights of the matrices in the statistics of their domain, as for
            :class:`~manifoldkit.spd.GBWBatchNorm`.

        Returns
        -------
        Tensor, shape and dtype of x
        """
        check_square(x, "x", self.norm.n)
        labels = self._labels(x, domains)
        present = self._present(labels)
        if self.training:
            if not present:
                raise ValueError("x: expected matrices to train with, found none")
            known = set(self.domains)
            self._add([d for d in present if d not in known])
        elif self.unseen == "error":
            self.refuse_unseen(present)
        event = x.shape[-2:] if self.norm.n_channels is None else x.shape[-3:]
        if weights is not None:
            lead = x.shape[: x.ndim - 2]
            weights = weights.broadcast_to(lead).reshape(-1, *event[:-2])
        if len(present) == 1 and len(labels):
            flat = x.reshape(-1, *event)
            return self._one(flat, present[0], weights).reshape(x.shape)
        flat, parts, rows = x.reshape(-1, *event), [x.new_empty(0, *event)], []
        for domain in present:
            index = (labels == domain).nonzero()[:, 0]
            w = None if weights is None else weights[index]
            parts.append(self._one(flat[index], domain, w))
            rows.append(index)
        if not rows:
            return x.clone()
        return torch.cat(parts)[torch.cat(rows).argsort()].reshape(x.shape)

    def _one(self, x: Tensor, domain: int, weights: Tensor | None) -> Tensor:
        """Normalize matrices of one domain."""
        if not self.training and domain not in self._known():
            statistics = self._temporary(x, domain)
        else:
            statistics = self.statistics(domain)
        if domain in self._given:
            statistics = statistics._replace(mean=self._given[domain])
        with self.norm.using(statistics):
            try:
                return self.norm(x, weights)
            except ValueError as error:
                raise ValueError(f"{error} (domain {domain})") from None

    def refuse_unseen(self, domains: Sequence[int]) -> None:
        """Raise where one of the domains has no statistics."""
        known = self._known()
        unseen = [d for d in domains if d not in known]
        if unseen:
            raise ValueError(
                f"domains: expected some of {sorted(known)}, which have "
                f"statistics, found {unseen[0]}; call adapt(x, {unseen[0]}), or set "
                "unseen='adapt'"
            )

    @torch.no_grad()
    def _temporary(self, x: Tensor, domain: int) -> Statistics:
        """Statistics of the matrices of a call."""
        mean, var = self._estimate(x, domain, None, _STEPS)
        shape = self.norm.bias.shape
        count = self.num_batches_tracked.new_ones(())
        mean, var = mean.reshape(shape), var.reshape(shape[:-2])
        return Statistics(mean, var, count, mean, var, 1.0)

    def _estimate(
        self, x: Tensor, domain: int, weights: Tensor | None, steps: int
    ) -> tuple[Tensor, Tensor]:
        try:
            mean, var = self.norm.estimate(x, weights, steps)
        except ValueError as error:
            raise ValueError(f"{error} (domain {domain})") from None
        return mean, mean.new_ones(len(mean)) if var is None else var

    @torch.no_grad()
    def adapt(
        self,
        x: Tensor,
        domain: int,
        weights: Tensor | None = None,
        *,
        mean_iterations: int = _STEPS,
    ) -> Self:
        """Set the statistics of a domain to those of all its matrices, without labels.

        Parameters
        ----------
        x : Tensor, shape (..., n, n), or (..., n_channels, n, n)
            At least two SPD matrices of the domain.
        domain : int
            Number of the domain, which may be new.
        weights : Tensor, optional
            Weights of the matrices, as in :meth:`forward`.
        mean_iterations : int, default=30
            Steps towards the mean.

        Returns
        -------
        DomainBatchNorm
            The layer itself.
        """
        check_count(mean_iterations, "mean_iterations", 0)
        domain = _number(domain)
        mean, var = self._estimate(x, domain, weights, mean_iterations)
        if domain not in self.domains:
            self._add([domain])
        row = self.statistics(domain)
        row.batches.fill_(1)
        for place in (row.mean, row.train_mean):
            place.copy_(mean.reshape(place.shape))
        for place in (row.var, row.train_var):
            place.copy_(var.reshape(place.shape))
        return self

    @torch.no_grad()
    def init_from_data(self, x: Tensor, domains: Any) -> Self:
        """Start the bias and a metric at those of a batch, and adapt to its domains.

        Parameters
        ----------
        x, domains
            As in :meth:`forward`, at least two matrices a domain.

        Returns
        -------
        DomainBatchNorm
            The layer itself.
        """
        check_square(x, "x", self.norm.n)
        labels = self._labels(x, domains)
        event = x.shape[-2:] if self.norm.n_channels is None else x.shape[-3:]
        flat, norm = x.reshape(-1, *event), self.norm
        eye = torch.eye(norm.n, dtype=x.dtype, device=x.device)
        mean = eye.expand(norm.bias.shape).to(norm.bias).clone()
        var, count = torch.ones_like(norm.scale), torch.zeros_like(labels.sum())
        with norm.using(Statistics(mean, var, count, mean, var, 1.0)):
            norm.init_from_data(flat)
        for domain in labels.unique().tolist():
            self.adapt(flat[labels == domain], domain)
        return self

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Forget the statistics of all domains; their numbers stay."""
        ids = self.domains
        for name in _BUFFERS:
            setattr(self, name, getattr(self, name)[:0])
        self._add(ids)

    def reset_parameters(self) -> None:
        """Set bias and metric to the identity, the scale to 1; forget statistics."""
        self.norm.reset_points()
        self.reset_running_stats()

    def schedule_momentum(self, epoch: int, epochs: int, batch_share: float) -> None:
        r"""Set ``train_momentum`` for an epoch as TSMNet's training does.

        It falls from 1 in the first epoch to the share q in the last one,
        :math:`1 + q - q^{(E - e) / (E - 1)}`.

        Parameters
        ----------
        epoch : int
            The epoch e, from 1.
        epochs : int
            Number E of epochs, at least 2.
        batch_share : float
            Size of the batches beside the size at which their statistics are good, in
            (0, 1].

        Raises
        ------
        ValueError
            Numbers out of range.
        """
        check_count(epoch, "epoch")
        check_count(epochs, "epochs", 2)
        q = check_interval(batch_share, "batch_share", 0, 1, "(]")
        rest = max(epochs - epoch, 0) / (epochs - 1)
        self.train_momentum = 1 + q - q**rest

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        for name in _BUFFERS:
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(stored, Tensor) and stored.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Settings that are not the default."""
        parts = [f"geometry={self.geometry!r}", f"{len(self.domain_ids)} domains"]
        if self.train_momentum != 1:
            parts.append(f"train_momentum={self.train_momentum:g}")
        if self.unseen != "error":
            parts.append(f"unseen={self.unseen!r}")
        return ", ".join(parts)


def _number(domain: Any) -> int:
    """Return the number of a domain as a plain integer."""
    if isinstance(domain, Tensor) and domain.numel() == 1:
        domain = domain.item()
    try:
        found = None if isinstance(domain, bool) else domain.__index__()
    except AttributeError:
        found = None
    if found is None:
        raise TypeError(f"domain: expected an integer, found {domain!r}")
    return int(found)
