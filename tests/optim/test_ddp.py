"""Two processes train one model and stay equal to the bit."""

import geoopt
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manifoldkit.manifolds import SPD, PositiveReals, SpecialOrthogonal, Sphere, Stiefel
from manifoldkit.optim import build_optimizer


class Mixed(torch.nn.Module):
    """A flat layer and points of five manifolds."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = torch.nn.Linear(4, 4)
        spaces = {
            "stiefel": (Stiefel(), (4, 2)),
            "rotation": (SpecialOrthogonal(), (4, 4)),
            "spd": (SPD(), (4, 4)),
            "sphere": (Sphere(), (4,)),
            "positive": (PositiveReals(), (4,)),
        }
        for name, (manifold, shape) in spaces.items():
            for i in range(2):
                x = manifold.random(*shape, generator=generator).data
                p = geoopt.ManifoldParameter(x, manifold=manifold)
                self.register_parameter(f"{name}{i}", p)

    def forward(self, x):
        x = self.linear(x) @ self.rotation0 @ self.spd0 @ self.rotation1 @ self.spd1
        x = x * self.positive0 + x @ self.stiefel0 @ self.stiefel1.mT * self.positive1
        return x @ self.sphere0 - (x @ self.sphere1) ** 2


def _train(rank, address, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        model = torch.nn.parallel.DistributedDataParallel(Mixed())
        optimizer = build_optimizer(model, "adamw", lr=1e-3, manifold_lr=0.05)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(8):
            optimizer.zero_grad()
            x = torch.randn(16, 4, generator=generator)
            (model(x) ** 2).mean().backward()
            optimizer.step()
        values = {n: p.detach().clone() for n, p in model.module.named_parameters()}
        torch.save(values, path / f"rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_ranks_stay_equal(tmp_path):
    address = f"file://{tmp_path / 'rendezvous'}"
    # one other process: the import of torch is the cost of this test
    other = mp.get_context("spawn").Process(target=_train, args=(1, address, tmp_path))
    other.start()
    start = {n: p.detach().clone() for n, p in Mixed().named_parameters()}
    _train(0, address, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert not torch.equal(value, start[name]), name
