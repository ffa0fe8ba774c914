"""SPDNet as a scikit-learn classifier, trained through skorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
)

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit._faces.estimator import seeded
from manifoldkit.linalg.checks import check_weights
from manifoldkit.spd._classifier_files import read_classifier, write_classifier
from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.networks import SPDNet
from manifoldkit.spd.training import hold_out, make_trainer
from manifoldkit.spd.validation import (
    check_epochs,
    check_labels,
    check_matrices,
    classes_of,
)

_HISTORY = ("train_loss", "valid_loss", "valid_accuracy", "dur")
_PREDICT_BATCH = 512


class SPDNetClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator
):
    r"""Deep network on SPD matrices or raw epochs.

    :class:`~manifoldkit.spd.SPDNet` behind scikit-learn's interface: blocks of BiMap,
    batch normalization and ReEig, then LogEig and a linear layer. Weights on manifolds
    are stepped by the Riemannian optimizers of :mod:`manifoldkit.optim`, training runs
    through skorch (extra ``train``).

    Parameters
    ----------
    dims : sequence of int, optional
        Sizes after each BiMap; default one, to half the size of the input.
    batchnorm : str or None, default="gbw"
        "gbw", "bw", "airm", "airm-mean", "log_euclidean", "log_cholesky", or None.
    power : float, default=1.0
        Power deformation of the "gbw" normalization.
    learn_metric : bool, default=True
        Learn the metric matrix of the "gbw" normalization.
    input : {"covariance", "signal"}, default="covariance"
        What ``X`` holds: SPD matrices (n_matrices, n, n), or epochs
        (n_epochs, n_channels, n_times) whose covariances, or augmented covariances,
        are taken first.
    order, lag, estimator
        For epochs, as in :class:`~manifoldkit.spd.AugmentedCovariances`.
    rescale : bool, default=True
        Divide all matrices by the mean eigenvalue of the training matrices, which makes
        the network free of the signals' units.
    init_from_data : bool, default=True
        Start the metric and bias of the "gbw" normalization at means of the training
        data, which keeps samples inside the domain of the exponential.
    threshold : float, default=1e-4
        Of ReEig, in units of the mean eigenvalue with ``rescale``.
    position, n_residual
        As in :class:`~manifoldkit.spd.SPDNet`.
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
        As in :func:`~manifoldkit.optim.build_optimizer`.
    lr, manifold_lr : float
        Learning rates of the flat parameters and of those on manifolds.
    weight_decay : float, default=0.0
        Of the flat parameters.
    max_epochs : int, default=50
        Passes over the data in ``fit``.
    batch_size : int, default=32
        Matrices a step. A last batch of one matrix is left out of an epoch.
    early_stopping : bool, default=False
        Put ``validation_fraction`` of the data aside, stop when the loss on it has not
        improved for ``patience`` epochs and keep the best weights.
    validation_fraction : float, default=0.2
        Stratified share for early stopping.
    patience : int, default=10
        Epochs without improvement.
    class_weight : dict, "balanced" or None
        Weights of the classes in the loss.
    device : str, default="cpu"
        Such as "cuda".
    random_state : int, RandomState instance or None, default=None
        Of initial weights, batches and the validation split.
    verbose : int, default=0
        1 prints a line an epoch.
    warm_start : bool, default=False
        ``fit`` goes on from the weights of the last fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``dur``, and with early stopping
        ``valid_loss`` and ``valid_accuracy``.
    net_ : skorch.NeuralNet
        The trainer; ``net_.module_`` is the network, in the dtype of the training data
        (float32 or float64).
    scale_ : float
        What the matrices are divided by.
    n_channels_ : int
        Size of the matrices, or channels of the epochs, seen in ``fit``.

    Raises
    ------
    MissingExtraError
        skorch is not installed (when fitted).

    References
    ----------
    .. [1] Z. Huang, L. Van Gool, "A Riemannian network for SPD matrix learning",
       AAAI 2017.
    .. [2] R. Wang et al., "Learning to normalize on the SPD manifold under
       Bures-Wasserstein geometry", CVPR 2025.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["feet", "hands"], 20)
    >>> X = rng.standard_normal((40, 4, 60))
    >>> X[:20, 0] *= 3  # one class is stronger in the first channel
    >>> model = SPDNetClassifier(input="signal", max_epochs=20, random_state=0)
    >>> model.fit(X, y).score(X, y)
    1.0
    """

    net_: Any

    def __init__(
        self,
        dims=None,
        *,
        batchnorm: str | None = "gbw",
        power: float = 1.0,
        learn_metric: bool = True,
        input: str = "covariance",
        order=1,
        lag=1,
        estimator="oas",
        rescale: bool = True,
        init_from_data: bool = True,
        threshold: float = 1e-4,
        position: str = "after_bimap",
        n_residual: int = 0,
        optimizer: str = "adam",
        lr: float = 1e-2,
        manifold_lr: float = 1e-2,
        weight_decay: float = 0.0,
        max_epochs: int = 50,
        batch_size: int = 32,
        early_stopping: bool = False,
        validation_fraction: float = 0.2,
        patience: int = 10,
        class_weight=None,
        device: str = "cpu",
        random_state=None,
        verbose: int = 0,
        warm_start: bool = False,
    ):
        self.dims = dims
        self.batchnorm = batchnorm
        self.power = power
        self.learn_metric = learn_metric
        self.input = input
        self.order = order
        self.lag = lag
        self.estimator = estimator
        self.rescale = rescale
        self.init_from_data = init_from_data
        self.threshold = threshold
        self.position = position
        self.n_residual = n_residual
        self.optimizer = optimizer
        self.lr = lr
        self.manifold_lr = manifold_lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start

    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n) or (n_epochs, n_channels, n_times)
            SPD matrices or epochs, see ``input``.
        y : array-like of shape (n_matrices,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights in the loss.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Bad input (the first bad matrix or epoch is named) or settings.
        """
        self._check_settings()
        again = self.warm_start and hasattr(self, "net_")
        X = self._check_input(X, fitting=not again)
        y = check_labels(X, y, "SPDNetClassifier")
        classes = self.classes_ if again else classes_of(y)
        targets = self._targets(X, y, classes, sample_weight)
        if not again:
            X = self._prepare(X, fitting=True)
            self._build(X, classes)
        else:
            X = self._prepare(X)
        return self._train(X, targets, self.max_epochs)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch on the data given.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`.
        classes : array-like, optional
            All labels that will come; needed in the first call.

        Returns
        -------
        self
        """
        self._check_settings()
        if self.early_stopping:
            raise ValueError("early_stopping: partial_fit has no validation split")
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight: partial_fit takes no 'balanced'")
        again = hasattr(self, "net_")
        X = self._check_input(X, fitting=not again)
        y = check_labels(X, y, "SPDNetClassifier")
        if not again and classes is None:
            raise ValueError("classes: expected in the first call of partial_fit")
        labels = self.classes_ if again else np.unique(classes)
        if classes is not None and not np.array_equal(np.unique(classes), labels):
            raise ValueError(
                f"classes: expected {labels.tolist()} as before, found {classes!r}"
            )
        targets = self._targets(X, y, labels, sample_weight)
        X = self._prepare(X, fitting=not again)
        if not again:
            self._build(X, labels)
        return self._train(X, targets, 1)

    def _check_settings(self) -> None:
        check_choice(self.input, ("covariance", "signal"), "input")
        for name in ("lr", "manifold_lr", "threshold"):
            check_positive(getattr(self, name), name)
        for name in ("max_epochs", "batch_size", "patience"):
            check_count(getattr(self, name), name)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction: expected a number between 0 and 1, "
                f"found {self.validation_fraction!r}"
            )
        if not self.weight_decay >= 0:
            raise ValueError(
                f"weight_decay: expected at least 0, found {self.weight_decay!r}"
            )

    def _check_input(self, X, fitting: bool = False) -> np.ndarray:
        n = None if fitting else self.n_channels_
        if self.input == "signal":
            return check_epochs(X, n_channels=n)
        return check_matrices(X, n=n)

    def _targets(self, X, y, classes, sample_weight) -> np.ndarray:
        """Rows (code, weight) in the dtype of the data."""
        unknown = np.setdiff1d(y, classes)
        if len(unknown):
            raise ValueError(
                f"y: expected labels out of {classes.tolist()}, "
                f"found {unknown.tolist()[0]!r}"
            )
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        check_weights(torch.from_numpy(weights), len(X), "sample_weight")
        codes = np.searchsorted(classes, y)
        if self.class_weight is not None:
            by_class = compute_class_weight(self.class_weight, classes=classes, y=y)
            weights = weights * by_class[codes]
        return np.stack([codes, weights], 1).astype(X.dtype)

    def _make_covariances(self) -> AugmentedCovariances:
        return AugmentedCovariances(
            order=self.order, lag=self.lag, estimator=self.estimator
        )

    def _prepare(self, X: np.ndarray, fitting: bool = False) -> np.ndarray:
        """Matrices that the network takes."""
        if self.input == "signal":
            if fitting:
                self.covariances_ = self._make_covariances().fit(X)
            X = self.covariances_.transform(X)
        if fitting:
            mean = np.trace(X, axis1=1, axis2=2).mean(dtype=np.float64) / X.shape[1]
            self.scale_ = float(mean) if self.rescale else 1.0
        return X / X.dtype.type(self.scale_)

    def _build(self, X: np.ndarray, classes: np.ndarray) -> None:
        """A new network for the data."""
        self.classes_ = classes
        self.n_channels_ = X.shape[1]
        if self.input == "signal":
            self.n_channels_ = self.covariances_.n_channels_
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.history_: list[dict] = []
        with self._randomness():
            self.net_ = self._make_trainer(X.shape[1], torch.from_numpy(X[:0]).dtype)
            self.net_.initialize()
            if self.init_from_data:
                x = torch.from_numpy(np.ascontiguousarray(X)).to(self.device)
                self.net_.module_.init_from_data(x)

    def _randomness(self):
        return seeded(self._seed + len(self.history_), self.device)

    def _make_trainer(self, n: int, dtype: torch.dtype):
        module = {
            "n_in": n,
            "dims": (max(n // 2, 1),) if self.dims is None else tuple(self.dims),
            "n_classes": len(self.classes_),
            "batchnorm": self.batchnorm,
            "power": self.power,
            "learn_metric": self.learn_metric,
            "position": self.position,
            "threshold": self.threshold,
            "n_residual": self.n_residual,
            "dtype": dtype,
        }
        return make_trainer(
            SPDNet,
            patience=self.patience if self.early_stopping else None,
            verbose=self.verbose,
            **{f"module__{name}": value for name, value in module.items()},
            optimizer__name=self.optimizer,
            optimizer__manifold_lr=self.manifold_lr,
            optimizer__weight_decay=self.weight_decay,
            lr=self.lr,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            device=self.device,
        )

    def _train(self, X: np.ndarray, targets: np.ndarray, epochs: int):
        net = self.net_
        double = next(net.module_.parameters()).dtype == torch.float64
        dtype = np.float64 if double else np.float32
        X, targets = X.astype(dtype, copy=False), targets.astype(dtype, copy=False)
        known, before = len(net.history), len(self.history_)
        with self._randomness():
            if self.early_stopping:
                fraction = self.validation_fraction
                X, targets = hold_out(net, X, targets, fraction, self._seed)
            # a last batch of one matrix has no dispersion to normalize
            alone = len(X) % self.batch_size == 1 and len(X) > 1 and self.batch_size > 1
            net.iterator_train__drop_last, net.max_epochs = alone, epochs
            net.partial_fit(X, targets)
        net.train_split = None
        self.history_ += [
            {"epoch": before + i} | {k: float(row[k]) for k in _HISTORY if k in row}
            for i, row in enumerate(list(net.history)[known:], 1)
        ]
        return self

    def _evaluate(self, X, method: str) -> np.ndarray:
        check_is_fitted(self, "net_")
        X = self._prepare(self._check_input(X))
        module = self.net_.module_.eval()
        like = next(module.parameters())
        x = torch.from_numpy(np.ascontiguousarray(X))
        with torch.no_grad():
            parts = [
                getattr(module, method)(part.to(like)).cpu()
                for part in x.split(_PREDICT_BATCH)
            ]
        return torch.cat(parts).numpy()

    def predict_proba(self, X):
        """Return class probabilities, shape (n_matrices, n_classes)."""
        scores = torch.from_numpy(self._evaluate(X, "forward"))
        return scores.softmax(-1).numpy()

    def decision_function(self, X):
        """Return the class scores (logits); for two classes their difference."""
        scores = self._evaluate(X, "forward")
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X):
        """Return the label of the largest score, shape (n_matrices,)."""
        codes = self._evaluate(X, "forward").argmax(1)
        return self.classes_[codes]

    def transform(self, X):
        """Return the LogEig features in front of the linear layer, (n_matrices, k)."""
        return self._evaluate(X, "features")

    @property
    def _n_features_out(self):
        return self.net_.module_.n_features

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def save(self, path: str | Path) -> None:
        """Write ``path.safetensors`` (weights) and ``path.json`` (all else).

        Parameters
        ----------
        path : str or Path
            Without the suffix.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Nothing is fitted.
        TypeError
            A parameter that JSON does not hold, such as a callable estimator.
        """
        check_is_fitted(self, "net_")
        write_classifier(self, path)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "SPDNetClassifier":
        """Read what :meth:`save` wrote.

        Nothing is unpickled. The optimizer starts anew if training goes on.

        Parameters
        ----------
        path : str or Path
            Without the suffix.
        device : str, default="cpu"
            Where the network goes, whatever it was trained on.

        Raises
        ------
        FileNotFoundError
            There are no such files.
        ValueError
            The files hold something else.
        """
        return read_classifier(cls, path, device)
