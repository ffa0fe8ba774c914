"""Two processes normalize as one process with the joined batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from manifoldkit.optim import build_optimizer
from manifoldkit.spd import GBWBatchNorm, SPDNet, convert_sync_batchnorm, make_batchnorm
from manifoldkit.spd.batchnorm.all_reduce import all_reduce_sum

DOUBLE = torch.float64
SHARES = (slice(0, 4), slice(4, 10))
ALONE = (slice(0, 1), slice(1, 10))  # one matrix on a process is enough
# all zero for one channel on the first process
WEIGHTS = torch.tensor([[1.0, 0.0]] * 4 + [[0.5, 2.0]] * 6, dtype=DOUBLE)
LABELS = torch.arange(10) % 2
CASES = {
    "gbw": {},
    "gbw, gradients of statistics": {"stats_grad": True, "mean_iterations": 2},
    "gbw, power": {"power": 0.5, "stats_grad": True},
    "gbw, identity": {"dispersion": "identity", "fold": True, "stats_grad": True},
    "gbw, channels": {"n_channels": 2},
    "airm": {"stats_grad": True},
    "airm-mean": {},
    "log_euclidean": {"stats_grad": True},
    "log_cholesky": {},
}


def _data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 2, 4, 8, dtype=DOUBLE, generator=generator)
    weight = torch.randn(10, 2, 4, 4, dtype=DOUBLE, generator=generator)
    return x @ x.mT / 8, weight


def _layers():
    layers = {}
    for name, options in CASES.items():
        bn = make_batchnorm(name.split(",")[0], 4, dtype=DOUBLE, **options)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in bn.parameters():
                if p.shape[-2:] == (4, 4):
                    a = torch.randn(4, 8, dtype=DOUBLE, generator=generator)
                    p.copy_((a @ a.mT / 8).expand_as(p))
        layers[name] = bn
    layers["init"] = GBWBatchNorm(4, dtype=DOUBLE)
    return layers


def _net():
    generator = torch.Generator().manual_seed(2)
    return SPDNet(4, (3,), 2, generator=generator, dtype=DOUBLE)


def _train(net, x, y):
    """Two steps of training; the network of a wrapper, and its gradients."""
    optimizer = build_optimizer(net, "sgd", lr=0.05, manifold_lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    module = getattr(net, "module", net)
    return {
        "grads": {k: p.grad for k, p in module.named_parameters()},
        "state": {k: v.detach() for k, v in module.state_dict().items()},
    }


def _count_messages(bn, x):
    """Numbers of all_reduce calls in a training and an evaluation forward."""
    calls, reduce = [], dist.all_reduce
    dist.all_reduce = lambda *a, **k: (calls.append(1), reduce(*a, **k))[1]
    try:
        bn(x)
        training = len(calls)
        bn.eval()(x)
        return training, len(calls) - training
    finally:
        dist.all_reduce = reduce


def _step(bn, name, x, weight):
    if name == "init":
        bn.init_from_data(x)
    x = x.clone().requires_grad_()
    z = bn(x)
    (z.sin() * weight).sum().backward()
    grads = {k: p.grad for k, p in bn.named_parameters()}
    return {
        "z": z.detach(),
        "x": x.grad,
        "grads": grads,
        "buffers": dict(bn.named_buffers()),
    }


def _work(rank, address, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        x, weight = _data()
        out = {}
        for name, bn in _layers().items():
            convert_sync_batchnorm(bn)
            out[name] = _step(bn, name, x[SHARES[rank]], weight[SHARES[rank]])
        bn = convert_sync_batchnorm(_layers()["gbw"])
        out["alone"] = _step(bn, "gbw", x[ALONE[rank]], weight[ALONE[rank]])
        bn = convert_sync_batchnorm(_layers()["gbw, channels"])
        part = SHARES[rank]
        out["weighted"] = bn(x[part], WEIGHTS[part]).detach()
        half = slice(5 * rank, 5 * rank + 5)
        net = DistributedDataParallel(convert_sync_batchnorm(_net()))
        out["ddp"] = _train(net, x[half, 0], LABELS[half])
        for k in (1, 3):
            bn = GBWBatchNorm(4, mean_iterations=k, dtype=DOUBLE)
            counts = _count_messages(convert_sync_batchnorm(bn), x[half])
            out[f"messages {k}"] = counts
        torch.save(out, path / f"rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_processes_equal_one(tmp_path):
    address = f"file://{tmp_path / 'rendezvous'}"
    other = mp.get_context("spawn").Process(target=_work, args=(1, address, tmp_path))
    other.start()
    _work(0, address, tmp_path)
    other.join(120)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    x, weight = _data()
    close = {"rtol": 1e-10, "atol": 1e-10}
    for name, bn in _layers().items():
        a, b, joined = first[name], second[name], _step(bn, name, x, weight)
        for key in ("z", "x"):
            both = torch.cat([a[key], b[key]])
            torch.testing.assert_close(both, joined[key], **close, msg=f"{name} {key}")
        for key, value in joined["grads"].items():
            both = a["grads"][key] + b["grads"][key]
            torch.testing.assert_close(both, value, **close, msg=f"{name} {key}")
        for key, value in joined["buffers"].items():
            assert torch.equal(a["buffers"][key], b["buffers"][key]), (name, key)
            torch.testing.assert_close(a["buffers"][key], value, **close)
    joined = _step(_layers()["gbw"], "gbw", x, weight)
    both = torch.cat([r["alone"]["z"] for r in (first, second)])
    torch.testing.assert_close(both, joined["z"], **close)
    both = torch.cat([r["weighted"] for r in (first, second)])
    expected = _layers()["gbw, channels"](x, WEIGHTS)
    torch.testing.assert_close(both, expected, **close)
    # the mean of the losses of two equal shares is the loss of the joined batch
    joined = _train(_net(), x[:, 0], LABELS)
    for part, values in joined.items():
        for key, value in values.items():
            a, b = first["ddp"][part][key], second["ddp"][part][key]
            assert torch.equal(a, b), (part, key)
            torch.testing.assert_close(
                a, value, **close, msg=lambda m, k=key: f"DDP {k}: {m}"
            )
    for k in (1, 3):
        assert first[f"messages {k}"] == (2 + k, 0)


def test_one_process_is_not_changed(make_spd):
    x = make_spd(6)
    bn = GBWBatchNorm(4, dtype=DOUBLE)
    other = convert_sync_batchnorm(copy.deepcopy(bn))
    torch.testing.assert_close(other(x), bn(x))
    assert torch.equal(all_reduce_sum(x), x)


def test_converts_all_layers_in_place():
    net = SPDNet(5, (4, 3), 2)
    assert convert_sync_batchnorm(net) is net
    layers = [m for m in net.modules() if isinstance(m, GBWBatchNorm)]
    assert [bn.synchronized for bn in layers] == [True, True]
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module"):
        convert_sync_batchnorm([net])
