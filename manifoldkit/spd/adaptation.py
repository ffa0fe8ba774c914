"""Adaptation of trained networks to a new domain, without labels."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count, check_positive
from manifoldkit.linalg import expm, sqrtm, symmetrize
from manifoldkit.spd.batchnorm.domains import DomainBatchNorm


class _MovedMean(nn.Module):
    """Mean of a domain, moved along the affine-invariant exponential by free numbers.

    ``G = M^(1/2) exp(S) M^(1/2)``; S has no unit.
    """

    def __init__(self, mean: Tensor):
        super().__init__()
        self.root = sqrtm(mean)
        self.free = nn.Parameter(torch.zeros_like(mean))

    def forward(self) -> Tensor:
        """The mean, differentiable in the free numbers."""
        return symmetrize(self.root @ expm(symmetrize(self.free)) @ self.root)


def _entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean entropy of the predictions, and entropy of their mean, in nats."""
    logs = logits.flatten(0, -2).log_softmax(-1)
    conditional = -(logs.exp() * logs).sum(-1).mean()
    mean = logs.exp().mean(0)
    marginal = -torch.special.xlogy(mean, mean).sum()
    return conditional, marginal


def information_maximization(
    network: nn.Module,
    x: Tensor,
    domain: int,
    *,
    steps: int = 60,
    lr: float = 0.05,
    marginal: float = 1.0,
) -> list[float]:
    r"""Fit the mean of a target domain to what a trained network predicts for it.

    Recentering moves the mean of a domain to the bias. Where its class shares differ
    from those of training, the mean of its data is not the point that belongs there.
    This takes that point as a parameter, starting at the present mean, and minimizes

    .. math::
        \frac1N \sum_i H(p_i) - \lambda H\Bigl(\frac1N \sum_i p_i\Bigr),

    the entropy H of single predictions :math:`p_i` minus that of their mean, by Adam in
    the affine-invariant exponential chart at the start. All weights stay; only the
    running means of this domain change, in every
    :class:`~manifoldkit.spd.DomainBatchNorm`. No label is used.

    Parameters
    ----------
    network : nn.Module
        A trained network whose ``forward(x, domains)`` returns class scores, such as
        :class:`~manifoldkit.spd.SPDNet` with ``domain_batchnorm``; changed in place.
    x : Tensor
        All items of the domain.
    domain : int
        Its number, among the network's domains: call ``network.adapt(x, domain)``
        first where it is new.
    steps : int, default=60
        Steps of Adam.
    lr : float, default=0.05
        Its learning rate, about the largest change of an eigenvalue's logarithm a step.
    marginal : float, default=1
        Weight :math:`\lambda` of the entropy of the mean prediction. It keeps all items
        from being given one class, and draws the predicted shares to equal ones.

    Returns
    -------
    list of float
        The loss at the start and after every step. The means of the least one are kept.

    Raises
    ------
    ValueError
        The network has no ``DomainBatchNorm``, or a loss is not finite (the means are
        what they were).

    Notes
    -----
    It needs classes that the source network separates in the target domain, too: where
    the predictions are near to chance it has nothing to sharpen. Take
    ``network.adapt`` alone where class shares are equal to those of training.

    References
    ----------
    .. [1] S. Li et al., "SPDIM: Source-free unsupervised conditional and label shift
       adaptation in EEG", ICLR 2025, arXiv 2411.07249.

    Examples
    --------
    >>> from manifoldkit.spd import SPDNet
    >>> x = torch.eye(4) + torch.diag_embed(torch.rand(20, 4))
    >>> net = SPDNet(4, (3,), 2, batchnorm="airm", domain_batchnorm=True)
    >>> _ = net(x, torch.arange(20) % 2)  # stands for training
    >>> net.adapt(3 * x, 7).domain_batchnorm
    True
    >>> losses = information_maximization(net, 3 * x, 7, steps=5)
    >>> len(losses), min(losses) <= losses[0]
    (6, True)
    """
    check_count(steps, "steps")
    check_positive(lr, "lr")
    check_positive(marginal, "marginal")
    layers = [m for m in network.modules() if isinstance(m, DomainBatchNorm)]
    if not layers:
        raise ValueError("network: expected a DomainBatchNorm in it, found none")
    for layer in layers:
        layer.refuse_unseen([domain])
    training = [(m, m.training) for m in network.modules()]
    means = [_MovedMean(layer.statistics(domain).mean.clone()) for layer in layers]
    optimizer = torch.optim.Adam([m.free for m in means], lr=lr)
    network.eval()
    losses: list[float] = []
    best: list[Tensor] = []
    try:
        for _ in range(steps + 1):
            present = [m() for m in means]
            with ExitStack() as stack, torch.enable_grad():
                for layer, mean in zip(layers, present, strict=True):
                    stack.enter_context(layer.with_mean(domain, mean))
                single, joint = _entropies(network(x, domain))
            loss = single - marginal * joint
            if not bool(loss.isfinite()):
                raise ValueError(
                    f"x: the loss is not finite in step {len(losses)}: use a smaller "
                    f"lr than {lr:g}, or look at the input"
                )
            losses.append(float(loss.detach()))
            if losses[-1] == min(losses):
                best = [mean.detach() for mean in present]
            optimizer.zero_grad()
            free = [m.free for m in means]
            for p, g in zip(free, torch.autograd.grad(loss, free), strict=True):
                p.grad = g
            optimizer.step()
    finally:
        for module, mode in training:
            module.training = mode
    with torch.no_grad():
        for layer, mean in zip(layers, best, strict=True):
            layer.statistics(domain).mean.copy_(mean)
    return losses
