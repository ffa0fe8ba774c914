"""Group convolutions: training steps of AffineResNet, separable against dense kernels.

The paper's configuration: 40 channels, ten samples of GL(2), 5 x 5 kernels, images of
40 x 40 pixels; but batches of 2 images, not 128, so that a step ends within seconds. A
step's cost grows with the batch alike for all (kernels are a few per cent of it).
Memory is what a step keeps for its backward pass, by torch's saved tensors.
"""

import torch

from benchmarks.timing import compare
from manifoldkit.lie import GLPlus
from manifoldkit.lie.nn import AffineResNet

BATCH = 2


def _step(model, x, y):
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()


def saved_megabytes(model, x, y):
    """Memory of the distinct tensors that are kept for the backward pass."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(x), y).backward()
    return sum(kept.values()) / 2**20


def run():
    """Return the rows."""
    torch.manual_seed(0)
    x, y = torch.rand(BATCH, 1, 40, 40), torch.zeros(BATCH, dtype=torch.long)
    forms = {"dense": False, "separable": True, "depthwise": "depthwise"}
    models = {
        name: AffineResNet(group=GLPlus(2), separable=form)
        for name, form in forms.items()
    }
    memory = {name: saved_megabytes(model, x, y) for name, model in models.items()}
    seconds = compare(
        {name: lambda m=model: _step(m, x, y) for name, model in models.items()},
        repeats=3,
    )
    rows = [
        {
            "case": f"training step, {BATCH} images, 40 channels, 10 samples, {name}",
            "ours_s": seconds[name],
            "peer": "dense kernels",
            "peer_s": seconds["dense"],
            "ratio": seconds[name] / seconds["dense"],
            "target": "<= 0.33",
            "note": (
                f"{memory[name]:.0f} MB kept for the backward pass, "
                f"dense {memory['dense']:.0f} MB"
            ),
        }
        for name in ("separable", "depthwise")
    ]
    model = models["separable"].eval()
    with torch.no_grad():
        kept = compare(
            {
                "kept": lambda: model(x),
                "renewed": lambda: (model.redraw(10), model(x)),
            },
            repeats=5,
        )
    rows.append(
        {
            "case": f"evaluation, {BATCH} images, kernels kept",
            "ours_s": kept["kept"],
            "peer": "kernels renewed at every call",
            "peer_s": kept["renewed"],
            "ratio": kept["kept"] / kept["renewed"],
            "target": "< 1",
        }
    )
    return rows
