"""A training epoch of the MAMEM network with and without batch normalization."""

import torch

from benchmarks.gbw import _spd
from benchmarks.timing import compare
from manifoldkit.experiments.spd.spd_networks import NETWORKS
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import ConvSPDNet

NAMES = {
    "GBW, M learned": "GBW",
    "GBW, M learned, power 0.5": "GBW, power 0.5",
    "AIRM, mean and variance": "AIRM, mean and variance",
}


def _epoch(options, folded, dtype):
    """One pass over 300 epochs of 8 channels and 125 samples, batch 30."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvSPDNet(
            8, 5, vectorize="flat", folded=folded, dtype=dtype, **options
        )
    x = torch.randn(300, 8, 125, dtype=dtype, generator=generator)
    y = torch.randint(5, (300,), generator=generator)
    optimizer = build_optimizer(model, "sgd", lr=2.5e-3, manifold_lr=2.5e-3)

    def run():
        for a, b in zip(x.split(30), y.split(30), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(a), b).backward()
            optimizer.step()

    return run


def _rows(folded, dtype, repeats):
    kind = "filters folded" if folded else "filters layer by layer"
    bits = "float64" if dtype == torch.float64 else "float32"
    runs = {"none": _epoch({"batchnorm": None}, folded, dtype)}
    runs |= {name: _epoch(NETWORKS[name], folded, dtype) for name in NAMES}
    x = _spd(30, 12, 1e2).to(dtype)
    runs["floor"] = lambda: [torch.linalg.eigh(x) for _ in range(20)]
    seconds = compare(runs, repeats=repeats)
    floor = 1 + seconds["floor"] / seconds["none"]
    extra = {name: 1e2 * (seconds[name] - seconds["none"]) for name in NAMES}
    return [
        {
            "case": f"training epoch, 300 trials, {bits}, {kind}: SPDNet + {label}",
            "ours_s": seconds[name],
            "peer": "the same net without batch norm",
            "peer_s": seconds["none"],
            "ratio": seconds[name] / seconds["none"],
            "target": "<= 1.05" if label == "GBW" else "",
            "note": f"{extra[name]:.1f} ms a step more; its two eigh alone "
            f"would make {floor:.2f}",
        }
        for name, label in NAMES.items()
    ]


def run():
    """Return the rows."""
    rows = _rows(False, torch.float64, 3)
    rows += _rows(True, torch.float64, 7) + _rows(True, torch.float32, 7)
    layered, folded = rows[0], rows[len(NAMES)]
    rows.append(
        {
            "case": "training epoch, 300 trials, float64, GBW: filters folded",
            "ours_s": folded["ours_s"],
            "peer": "the same net, filters layer by layer",
            "peer_s": layered["ours_s"],
            "ratio": folded["ours_s"] / layered["ours_s"],
        }
    )
    return rows
