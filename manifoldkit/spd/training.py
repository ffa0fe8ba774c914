"""What :mod:`manifoldkit.spd.classifiers` needs of skorch: loss, trainer, split."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from manifoldkit.exceptions import MissingExtraError
from manifoldkit.optim import build_optimizer


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with a weight a sample; targets are rows (class code, weight)."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted mean over the batch; zero for a batch without weight."""
        codes, weights = targets[:, 0].long(), targets[:, 1]
        losses = nn.functional.cross_entropy(logits, codes, reduction="none")
        total = weights.sum()
        return (weights * losses).sum() / torch.where(total > 0, total, 1.0)


def make_optimizer(groups, *, name: str, **options) -> torch.optim.Optimizer:
    """Return the optimizer for skorch's parameter groups.

    Points of the SPD cone (bias and metric of a batch norm) get no weight decay: it
    would draw them towards the identity.
    """
    params = [p for group in groups for p in group["params"]]
    optimizer = build_optimizer(params, name, **options)
    for group in optimizer.param_groups:
        if group.get("name") == "manifold":
            group["weight_decay"] = 0.0
    return optimizer


def validation_accuracy(net, X, targets) -> float:
    """Accuracy that skorch writes to the history."""
    codes = net.forward(X).argmax(-1).numpy()
    return float((codes == np.asarray(targets)[:, 0]).mean())


def _silent(*_) -> None:
    """What skorch's callbacks print to."""


def _callbacks(patience: int | None) -> list:
    if patience is None:
        return []
    from skorch.callbacks import EarlyStopping, EpochScoring

    score = EpochScoring(
        validation_accuracy,
        name="valid_accuracy",
        lower_is_better=False,
        use_caching=False,
    )
    stop = EarlyStopping(patience=patience, load_best=True, sink=_silent)
    return [("valid_accuracy", score), ("early_stopping", stop)]


def make_trainer(module: type[nn.Module], *, patience: int | None, verbose: int, **kw):
    """Return a skorch trainer of the network class, with early stopping on demand.

    Raises
    ------
    MissingExtraError
        skorch is not installed.
    """
    try:
        from skorch import NeuralNet
    except ImportError:
        raise MissingExtraError("SPDNetClassifier", "skorch", "train") from None
    if not verbose:
        kw["callbacks__print_log"] = None
    return NeuralNet(
        module,
        WeightedCrossEntropy,
        optimizer=make_optimizer,
        iterator_train__shuffle=True,
        iterator_train__drop_last=False,
        train_split=None,
        callbacks=_callbacks(patience),
        verbose=verbose,
        **kw,
    )


def hold_out(net, X: np.ndarray, targets: np.ndarray, fraction: float, seed: int):
    """Give the trainer a stratified validation part; return the rest."""
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    try:
        rows, held = train_test_split(
            np.arange(len(X)),
            test_size=fraction,
            stratify=targets[:, 0],
            random_state=seed,
        )
    except ValueError as error:
        raise ValueError(
            "early_stopping: the data cannot be split by class with "
            f"validation_fraction={fraction}: {error}"
        ) from None
    net.train_split = predefined_split(Dataset(X[held], targets[held]))
    return X[rows], targets[rows]
