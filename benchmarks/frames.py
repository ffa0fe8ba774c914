"""Frame averaging against its parts: folded backbone calls, a loop, e3nn; the checker.

The wrapper is compared with the backbone called on as many clouds as there are frames;
frames with one eigendecomposition a cloud in a Python loop.
"""

import torch
from torch import nn

from benchmarks.timing import compare, row
from manifoldkit.equivariant import EqMotion, FrameAveraging, pair_frame, pca_frame
from manifoldkit.testing import check_equivariance


def _network(width):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 3),
    )  # fmt: skip


def _wrapper_rows():
    rows = []
    for group, frames in (("SE(3)", 4), ("E(3)", 8)):
        x = torch.randn(8, 256, 3, generator=torch.Generator().manual_seed(0))
        folded = x.repeat(frames, 1, 1)
        backbone = _network(256)
        whole = FrameAveraging(backbone, group, out_types="position")
        loop = FrameAveraging(backbone, group, out_types="position", fold="loop")
        with torch.no_grad():
            t = compare(
                {
                    "ours": lambda w=whole, x=x: w(x),
                    "plain": lambda b=backbone, f=folded: b(f),
                    "loop": lambda w=loop, x=x: w(x),
                },
                repeats=21,
            )
        case = f"{group} average, 8 clouds of 256 points, network of width 256"
        peer = f"backbone on {frames} times as many clouds"
        rows.append(row(case, t["ours"], peer, t["plain"], "<= 1.1"))
        note = "smaller calls stay in the cache: chunk=1 does the same"
        rows.append(row(case, t["ours"], "a loop over frames", t["loop"], "", note))
    return [*rows, _small_row()]


def _small_row():
    """Small inputs, where calls cost more than arithmetic."""
    x = torch.randn(8, 16, 3, generator=torch.Generator().manual_seed(0))
    backbone = _network(64)
    whole = FrameAveraging(backbone, "E(3)", out_types="position")
    loop = FrameAveraging(backbone, "E(3)", out_types="position", fold="loop")
    with torch.no_grad():
        t = compare(
            {"ours": lambda: whole(x), "loop": lambda: loop(x)}, repeats=101, warmup=5
        )
    case = "E(3) average, 8 clouds of 16 points, network of width 64"
    return row(case, t["ours"], "a loop over frames", t["loop"], "< 1")


def _loop_frames(x):
    """Frames of clouds one after the other."""
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    found = []
    for cloud in x:
        z = cloud - cloud.mean(0)
        _, v = torch.linalg.eigh(z.T @ z)
        v = v * torch.linalg.det(v).sign()
        found.append(v * signs[:, None])
    return torch.stack(found)


def _frame_rows():
    x = torch.randn(10_000, 64, 3, generator=torch.Generator().manual_seed(0))
    z = x.double() - x.double().mean(1, keepdim=True)
    c = z.mT @ z
    t = compare(
        {
            "ours": lambda: pca_frame(x),
            "eigh": lambda: torch.linalg.eigh(c),
            "loop": lambda: _loop_frames(x[:1000]),
        },
        repeats=7,
    )
    case = "SE(3) frames of 10000 clouds of 64 points"
    rows = [
        row(case, t["ours"], "batched eigh alone (float64)", t["eigh"], "<= 60 ms"),
        row(case, t["ours"], "a loop over clouds", 10 * t["loop"], "< 1", "peer x 10"),
    ]
    small = x[:200, :16]
    t = compare({"ours": lambda: pair_frame(small), "pca": lambda: pca_frame(small)})
    case = "SE(3) pair frames (240 each) of 200 clouds of 16 points"
    rows.append(row(case, t["ours"], "principal axes (4 each)", t["pca"]))
    return rows


def _checker_row():
    from e3nn.util.test import assert_equivariant

    torch.manual_seed(0)
    model = EqMotion(20, 20)
    x = torch.randn(8, 5, 20, 3, generator=torch.Generator().manual_seed(0)).cumsum(2)

    def forecast(x):
        return model(x).pred

    kind = "position@1"
    e3nn_in, e3nn_out = ["cartesian_points"], ["cartesian_points"]
    flat = model.eval()

    def by_e3nn():
        assert_equivariant(
            lambda p: flat(p.reshape(8, 5, 20, 3)).pred.reshape(-1, 3),
            args_in=[x.reshape(-1, 3)], irreps_in=e3nn_in, irreps_out=e3nn_out,
            tolerance=1e-2,
        )  # fmt: skip

    t = compare(
        {
            "ours": lambda: check_equivariance(forecast, x, kind, kind, "S(n) x E(3)"),
            "e3nn": by_e3nn,
        },
        repeats=3,
    )
    return row(
        "check of EqMotion: 17 classes, 2 precisions, 8 x 5 agents",
        t["ours"],
        "e3nn assert_equivariant (1 draw, 1 precision)",
        t["e3nn"],
        "<= 5 s",
    )


def run():
    """Return the rows of the table."""
    return [*_wrapper_rows(), *_frame_rows(), _checker_row()]
