"""Networks with braindecode's arguments, and its classifier or one of its manner."""

import inspect

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier

from manifoldkit.spd import BiMap, EEGNetwork

SMALL = {
    "conv": {"n_spatial": 8, "n_filters": 6, "dims": (4,)},
    "covariance": {},
}


@pytest.fixture(scope="module")
def epochs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6, 100)).astype(np.float32)
    y = np.repeat([0, 1], 32)
    x[y == 1, 0] *= 2.5
    return x, y


class Classifier(NeuralNetClassifier):
    """Gives its module what the data tell, as braindecode's EEGClassifier does."""

    def fit(self, X, y):
        found = {"n_chans": X.shape[1], "n_times": X.shape[2], "sfreq": None}
        found["n_outputs"] = len(np.unique(y))
        names = inspect.signature(self.module.__init__).parameters
        self.set_params(**{f"module__{k}": v for k, v in found.items() if k in names})
        return super().fit(X, y)


def fit(classifier, kind, epochs):
    torch.manual_seed(0)
    options = {f"module__{k}": v for k, v in SMALL[kind].items()}
    model = classifier(
        EEGNetwork,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__lr=0.01,
        optimizer__weight_decay=0.1,
        train_split=None,
        iterator_train__shuffle=True,
        batch_size=16,
        max_epochs=10,
        verbose=0,
        module__network=kind,
        **options,
    )
    return model.fit(*epochs)


@pytest.mark.parametrize("kind", SMALL)
def test_a_plain_optimizer_trains_it(kind, epochs):
    model = fit(Classifier, kind, epochs)
    assert model.score(*epochs) > 0.8
    net = model.module_
    assert (net.n_chans, net.n_outputs, net.n_times) == (6, 2, 100)
    for layer in net.modules():
        if isinstance(layer, BiMap):
            w = layer.weight.detach()
            torch.testing.assert_close(
                w.mT @ w, torch.eye(w.shape[-1]).expand_as(w.mT @ w)
            )


@pytest.mark.parametrize("kind", SMALL)
def test_braindecode_trains_it(kind, epochs):
    braindecode = pytest.importorskip("braindecode", exc_type=ImportError)
    assert fit(braindecode.EEGClassifier, kind, epochs).score(*epochs) > 0.8


def test_shapes_and_bad_input():
    net = EEGNetwork(4, 3, 20, **SMALL["conv"])  # shorter than the default kernel
    assert net(torch.randn(5, 4, 20)).shape == (5, 3)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 4, n_times\)"):
        net(torch.randn(5, 3, 20))
    with pytest.raises(ValueError, match="n_outputs: expected"):
        EEGNetwork(4, 0, 20)
    with pytest.raises(ValueError, match="network: expected"):
        EEGNetwork(4, 2, 20, network="transformer")
