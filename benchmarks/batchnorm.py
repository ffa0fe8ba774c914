"""Batch normalization of SPD matrices against one batched eigh and its peers."""

from functools import partial

import torch
from spd_learn.modules import SPDBatchNormLie, SPDBatchNormMean, SPDBatchNormMeanVar

from benchmarks.gbw import _spd
from benchmarks.timing import compare
from manifoldkit.spd import DomainBatchNorm, GBWBatchNorm, make_batchnorm

BATCH = 30
DOMAINS = 5
SIZES = {8: (13, 4), 15: (8.5, 2.7), 32: (6, 2), 64: (6, 2)}
REPEATS = {8: 60, 15: 40, 32: 25, 64: 15}


class ReleasedFormulas(torch.nn.Module):
    """The released layer's formulas, composed of batched SVDs (it loops over them).

    Power 1, in training one fixed-point step and the variance about the identity, both
    constants; exponential and logarithm at the identity are evaluated twice.
    """

    def __init__(self, n):
        super().__init__()
        eye = torch.eye(n, dtype=torch.float64)
        # distinct eigenvalues, as there: the derivative of an SVD needs them
        nudge = torch.diag(1e-3 * torch.arange(1, n + 1, dtype=torch.float64))
        self.metric = torch.nn.Parameter(eye + nudge)
        self.bias = torch.nn.Parameter(eye + nudge)
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("running_mean", eye + nudge)
        self.register_buffer("running_var", torch.ones((), dtype=torch.float64))

    @staticmethod
    def _spectral(x, f):
        u, s, _ = torch.linalg.svd(x)
        return (u * f(s)[..., None, :]) @ u.mT

    def _root(self, x):
        return self._spectral(x, torch.sqrt)

    def _statistics(self, x, eye):
        if not self.training:
            return self.running_mean, self.running_var
        with torch.no_grad():
            g = x.mean(0)
            root = self._root(g)
            inverse = torch.linalg.inv(root)
            h = self._root(root @ x @ root).mean(0)
            g = inverse @ h @ h @ inverse
            traces = (x + eye - 2 * self._root(x)).diagonal(dim1=-2, dim2=-1)
            var = traces.sum(-1).mean()
            a = self.running_mean
            root = self._root(a)
            cross = root @ self._root(root @ g @ root) @ torch.linalg.inv(root)
            a = 0.81 * a + 0.01 * g + 0.09 * (cross + cross.mT)
            self.running_mean.copy_(a)
            self.running_var.lerp_(var, 0.1)
        return g, var

    def forward(self, x):
        """Normalize matrices (N, n, n)."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype)
        w = self._spectral(self.metric, torch.rsqrt)
        x, b = w @ x @ w, w @ self.bias @ w
        g, var = self._statistics(x, eye)
        root = self._root(g)
        cross = root @ self._root(root @ x @ root) @ torch.linalg.inv(root)
        s, u = torch.linalg.eigh(g)
        v = u.mT @ (cross + cross.mT - 2 * g) @ u
        v = u @ (v * (2 / (s[:, None] + s)).sqrt()) @ u.mT
        for gain in (self.scale / (var + 1e-5).sqrt(), 1):
            v = gain * 2 * (self._root(eye + v + v @ v / 4) - eye)
        d, r = torch.linalg.eigh(b)
        total = d[:, None] + d
        v = (r.mT @ v @ r) * (total / 2).sqrt()
        change = r @ (v / total) @ r.mT
        y = b + r @ v @ r.mT + change @ b @ change
        w = self._root(self.metric)
        return w @ y @ w


#: Peers of the same kind, for a plain ratio.
SAME_KIND = {
    "spd_learn, AIRM mean": "ours, airm-mean",
    "spd_learn, AIRM mean and variance": "ours, airm",
    "spd_learn, LieBN": "ours, lie",
}


def _layers(n):
    options = {"dtype": torch.float64}
    return {
        "ours": GBWBatchNorm(n, **options),
        "ours, power 0.5": GBWBatchNorm(n, power=0.5, **options),
        "ours, gradients of statistics": GBWBatchNorm(n, stats_grad=True, **options),
        "ours, airm": make_batchnorm("airm", n, **options),
        "ours, airm-mean": make_batchnorm("airm-mean", n, **options),
        "ours, lie": make_batchnorm("lie", n, **options),
        "ours, log_euclidean": make_batchnorm("log_euclidean", n, **options),
        "released formulas, batched SVDs": ReleasedFormulas(n),
        "spd_learn, AIRM mean": SPDBatchNormMean(n, **options),
        "spd_learn, AIRM mean and variance": SPDBatchNormMeanVar(n, **options),
        "spd_learn, LieBN": SPDBatchNormLie(n, **options),
    }


def _training(layer, x, weight, call=None):
    call = call or layer

    def step():
        leaf = x.detach().requires_grad_()
        layer.zero_grad()
        (call(leaf) * weight).sum().backward()

    return step


def _evaluation(layer, x):
    def step():
        with torch.no_grad():
            layer(x)

    return step


def _rows(n, mode):
    x = _spd(BATCH, n, 1e2)
    weight = torch.randn(x.shape, dtype=x.dtype, generator=torch.manual_seed(0))
    layers = _layers(n)
    contestants = {"eigh": lambda: torch.linalg.eigh(x)}
    for name, layer in layers.items():
        layer.train(mode == "training")
        contestants[name] = (
            _training(layer, x, weight) if mode == "training" else _evaluation(layer, x)
        )
    t = compare(contestants, repeats=REPEATS[n], warmup=4)
    what = "forward + backward" if mode == "training" else "evaluation forward"
    case = f"{what}, {BATCH} matrices {n} x {n}"
    target = f"<= {SIZES[n][mode != 'training']}"

    def row(name, peer, target, note=""):
        return {
            "case": case if name == "ours" else f"{case}: {name}",
            "ours_s": t[name],
            "peer": peer,
            "peer_s": t[peer],
            "ratio": t[name] / t[peer],
            "target": target,
            "note": note,
        }

    rows = [row("ours", "eigh", target, "floor: 2 eigh and products")]
    if mode != "training":
        rows[0]["note"] = "floor: 1 eigh and products"
    for name in layers:
        if name == "ours":
            continue
        if name.startswith("ours"):
            rows.append(row(name, "eigh", ""))
        else:
            note = f"peer {t[name] / t['eigh']:.1f} eigh"
            # the mean alone is less work: no dispersion, no scale
            less = name == "spd_learn, AIRM mean"
            rows.append(row("ours", name, "" if less else "< 1", note))
            if name in SAME_KIND:
                rows.append(row(SAME_KIND[name], name, "", note))
    return rows


def _domain_rows(n, mode):
    """Five domains in a batch, against the plain layer with the same batch."""
    x = _spd(BATCH, n, 1e2)
    domains = torch.arange(BATCH) % DOMAINS
    weight = torch.randn(x.shape, dtype=x.dtype, generator=torch.manual_seed(0))
    contestants = {}
    for name in ("airm", "gbw"):
        plain = make_batchnorm(name, n, dtype=torch.float64)
        layer = DomainBatchNorm(n, name, dtype=torch.float64)
        layer(x, domains)
        for key, module in ((name, plain), (f"{name}, domains", layer)):
            module.train(mode == "training")
            call = module if module is plain else partial(layer, domains=domains)
            contestants[key] = (
                _training(module, x, weight, call)
                if mode == "training"
                else _evaluation(call, x)
            )
    t = compare(contestants, repeats=REPEATS[n], warmup=4)
    what = "forward + backward" if mode == "training" else "evaluation forward"
    case = f"{what}, {DOMAINS} domains of {BATCH // DOMAINS} matrices {n} x {n}"
    return [
        {
            "case": f"{case}: {name}",
            "ours_s": t[f"{name}, domains"],
            "peer": f"ours, {name}, no domains",
            "peer_s": t[name],
            "ratio": t[f"{name}, domains"] / t[name],
            "target": "",
            "note": "",
        }
        for name in ("airm", "gbw")
    ]


def run():
    """Return the rows."""
    modes = ("training", "evaluation")
    rows = [r for n in SIZES for mode in modes for r in _rows(n, mode)]
    return rows + [r for n in (15, 32) for mode in modes for r in _domain_rows(n, mode)]
