"""Domains on two processes, of which one may be without some of them."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manifoldkit.spd import DomainBatchNorm, convert_sync_batchnorm

DOUBLE = torch.float64
NAMES = ("airm", "gbw", "log_cholesky")
SHARES = (slice(0, 5), slice(5, 12))
# the first process has no matrix of domain 9, the second one no matrix of domain 3
DOMAINS = torch.tensor([3, 3, 5, 3, 5, 9, 5, 9, 9, 5, 9, 9])


def _data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, 8, dtype=DOUBLE, generator=generator)
    weight = torch.randn(12, 4, 4, dtype=DOUBLE, generator=generator)
    return x @ x.mT / 8, weight


def _step(name, x, domains, weight, synchronized, stats_grad):
    bn = DomainBatchNorm(4, name, dtype=DOUBLE, stats_grad=stats_grad)
    if synchronized:
        convert_sync_batchnorm(bn)
    x = x.clone().requires_grad_()
    z = bn(x, domains)
    (z.sin() * weight).sum().backward()
    return {"z": z.detach(), "x": x.grad, "state": bn.state_dict(), "bn": bn}


def _work(rank, address, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        x, weight = _data()
        share = SHARES[rank]
        out = {}
        for name in NAMES:
            for grad in (False, True):
                parts = x[share], DOMAINS[share], weight[share]
                step = _step(name, *parts, True, grad)
                del step["bn"]
                out[name, grad] = step
        torch.save(out, f"{path}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
def test_two_processes_are_one(tmp_path):
    address = f"file://{tmp_path}/store"
    mp.spawn(_work, (address, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in (0, 1)]
    x, weight = _data()
    for (name, grad), first in ranks[0].items():
        whole = _step(name, x, DOMAINS, weight, False, grad)
        second = ranks[1][name, grad]
        for key in ("z", "x"):
            joined = torch.cat([first[key], second[key]])
            torch.testing.assert_close(joined, whole[key], rtol=1e-9, atol=1e-9)
        for key, value in whole["state"].items():
            torch.testing.assert_close(first["state"][key], value)
            torch.testing.assert_close(second["state"][key], first["state"][key])
