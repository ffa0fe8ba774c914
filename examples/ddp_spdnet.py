"""Train a network on SPD matrices in two processes that stay equal to the bit.

    python examples/ddp_spdnet.py --devices 2

Lightning starts this script once more for the second process; both train one model by
DDP (gloo on the CPU). ``fit`` makes the batch normalization use the statistics of both
shares, so that two processes with half a batch each do what one does with a whole one.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn

from manifoldkit.experiments.result import is_first_process
from manifoldkit.experiments.training import batches, fit
from manifoldkit.manifolds import ManifoldParameter
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import SPDNet


def make_data(n: int, n_channels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances of two classes, which differ in how two channels go together."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n_channels, 64, generator=generator)
    y = torch.arange(n) % 2
    x[:, 1] += torch.where(y == 1, 0.8, -0.8)[:, None] * x[:, 0]
    return x @ x.mT / 64, y


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of a batch."""
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def difference_between_processes(model: nn.Module) -> float:
    """Return the largest difference of any parameter or statistic to the first one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0.0
    largest = torch.zeros(())
    for value in (*model.parameters(), *model.buffers()):
        first = value.detach().clone()
        dist.broadcast(first, 0)
        largest = torch.maximum(largest, (first - value.detach()).abs().max().float())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return float(largest)


def main() -> None:
    """Train, and say what the processes agree on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = make_data(256)
    torch.manual_seed(0)
    model = SPDNet(8, (6,), 2)
    fit(
        model,
        loss,
        batches(x[:192], y[:192], batch_size=16),
        optimizer=lambda net: build_optimizer(net, "adamw", lr=0.02, manifold_lr=0.02),
        epochs=arguments.epochs,
        devices=arguments.devices,
        progress=False,
    )
    difference = difference_between_processes(model)
    with torch.no_grad():
        right = (model(x[192:]).argmax(1) == y[192:]).float().mean()
    on_manifolds = all(
        p.manifold.check_point_on_manifold(p, atol=1e-4)
        for p in model.parameters()
        if isinstance(p, ManifoldParameter)
    )
    if is_first_process():
        print(f"{arguments.devices} process(es), test accuracy {right:.3f}")
        print(f"largest difference between processes: {difference}")
        print(f"parameters on their manifolds: {on_manifolds}")


if __name__ == "__main__":
    main()
