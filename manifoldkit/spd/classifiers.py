"""SPDNet as a scikit-learn classifier, trained through skorch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_random_state
from torch import Tensor

from manifoldkit._checks import one_of, positive
from manifoldkit._faces.estimator import (
    TRAINING,
    Loaded,
    TorchFace,
    seeded,
    split_off,
)
from manifoldkit._faces.files import labels_content, stored_labels
from manifoldkit.spd.classifier_answers import NetworkAnswers
from manifoldkit.spd.networks import SPDNet
from manifoldkit.spd.training import (
    WeightedCrossEntropy,
    check_pairs,
    domain_loader,
    make_optimizer,
)
from manifoldkit.spd.validation import check_labels, classes_of

_COLUMNS = ("train_loss", "valid_loss", "valid_accuracy", "dur")
_COVARIANCE_STATE = ("order_", "lag_", "n_channels_", "n_times_")


class SPDNetClassifier(
    NetworkAnswers,
    TorchFace,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
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
        Covariances that are taken of epochs, with the meaning that the names have in
        :class:`~manifoldkit.spd.AugmentedCovariances`.
    rescale : bool, default=True
        Divide all matrices by ``scale_``, the mean eigenvalue of the training matrices:
        predictions do not depend on the unit of the signals. Otherwise ``threshold``
        and all that is learned are in the unit of the input.
    init_from_data : bool, default=True
        Start the metric and bias of the "gbw" normalization at means of the training
        data, which keeps samples inside the domain of the exponential.
    threshold : float, default=1e-4
        Smallest eigenvalue that ReEig leaves as it is, in units of the mean eigenvalue
        with ``rescale``.
    position, n_residual
        Where the normalization stands and how many residual blocks follow, see
        :class:`~manifoldkit.spd.SPDNet`.
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
        Optimizer that :func:`~manifoldkit.optim.build_optimizer` builds.
    lr, manifold_lr : float
        Learning rates of the flat parameters and of those on manifolds.
    weight_decay : float, default=0.0
        Decay of the flat parameters; those on manifolds have none.
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
        Where the network is trained and applied, such as "cuda".
    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the batches and the validation split.
    verbose : int, default=0
        1 prints a line an epoch.
    warm_start : bool, default=False
        ``fit`` goes on from the weights of the last fit.
    domain_batchnorm : bool, default=False
        Normalize with statistics of each domain (subject, session, device), by
        :class:`~manifoldkit.spd.DomainBatchNorm`. ``fit``, ``predict`` and the others
        take ``domains`` then, by metadata routing inside scikit-learn's tools.
    unseen : {"error", "adapt"}, default="error"
        A domain in ``predict`` that was not in ``fit``: raise, or take the statistics
        of its samples in the call, at least two. See :meth:`adapt` for keeping them.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    history_ : list of dict
        One row an epoch: ``epoch``, ``train_loss``, ``dur``, and with early stopping
        ``valid_loss`` and ``valid_accuracy``.
    net_ : skorch.NeuralNet, or what stands for it in a loaded model
        ``net_.module_`` is the network, in the dtype of the training data (float32 or
        float64).
    scale_ : float
        What the matrices are divided by.
    n_channels_ : int
        Size of the matrices, or channels of the epochs, seen in ``fit``.
    domains_ : ndarray of shape (n_domains,)
        Labels of the domains, with ``domain_batchnorm``.

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

    _format = "manifoldkit.spd.SPDNetClassifier"
    _settings = TRAINING | {
        "input": one_of("covariance", "signal"),
        "manifold_lr": positive,
        "threshold": positive,
        "unseen": one_of("error", "adapt"),
    }

    def __init__(
        self,
        dims: Sequence[int] | None = None,
        *,
        batchnorm: str | None = "gbw",
        power: float = 1.0,
        learn_metric: bool = True,
        input: str = "covariance",
        order: int | str = 1,
        lag: int | str = 1,
        estimator: str | Callable[..., Any] = "oas",
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
        class_weight: Mapping[Any, float] | str | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        warm_start: bool = False,
        domain_batchnorm: bool = False,
        unseen: str = "error",
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
        self.domain_batchnorm = domain_batchnorm
        self.unseen = unseen

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        domains: ArrayLike | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_matrices, n, n) or (n_epochs, n_channels, n_times)
            SPD matrices or epochs, see ``input``.
        y : array-like of shape (n_matrices,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_matrices,), optional
            Non-negative weights in the loss.
        domains : array-like of shape (n_matrices,), optional
            Labels of the domains, numbers or strings, with ``domain_batchnorm``; at
            least two samples of each.

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
        labels = self._domain_labels(domains, len(X))
        X = self._prepare(X, fitting=not again)
        self._learn_domains(labels, fresh=not again)
        codes = self._domain_codes(labels)
        if not again:
            self._build(X, classes, codes)
        return self._train(X, targets, codes, self.max_epochs)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        domains: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the data given.

        Parameters
        ----------
        X, y, sample_weight, domains
            As for :meth:`fit`; domains may be new ones.
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
        given = None if classes is None else np.unique(np.asarray(classes))
        labels = self.classes_ if again or given is None else given
        if given is not None and not np.array_equal(given, labels):
            raise ValueError(
                f"classes: expected {labels.tolist()} as before, found {classes!r}"
            )
        targets = self._targets(X, y, labels, sample_weight)
        places = self._domain_labels(domains, len(X))
        X = self._prepare(X, fitting=not again)
        self._learn_domains(places, fresh=not again)
        codes = self._domain_codes(places)
        if not again:
            self._build(X, labels, codes)
        return self._train(X, targets, codes, 1, whole=False)

    def _build(
        self, X: np.ndarray, classes: np.ndarray, domains: np.ndarray | None
    ) -> None:
        """A new network for the data."""
        if domains is not None:
            check_pairs(domains, self.domains_)
        self.classes_ = classes
        self.n_channels_ = X.shape[1]
        if self.input == "signal":
            self.n_channels_ = self.covariances_.n_channels_
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.history_: list[dict] = []
        with self._randomness():
            module = self._network(X.shape[1], torch.from_numpy(X[:0]).dtype)
            module = module.to(self.device)
            if self.init_from_data:
                x = torch.from_numpy(np.ascontiguousarray(X)).to(self.device)
                module.init_from_data(x, domains)
        self.net_ = Loaded(module)

    def _randomness(self):
        return seeded(self._seed + len(self.history_), self.device)

    def _network(self, n: int, dtype: torch.dtype) -> SPDNet:
        return SPDNet(
            n_in=n,
            dims=(max(n // 2, 1),) if self.dims is None else tuple(self.dims),
            n_classes=len(self.classes_),
            batchnorm=self.batchnorm,
            power=self.power,
            learn_metric=self.learn_metric,
            position=self.position,
            threshold=self.threshold,
            n_residual=self.n_residual,
            rescale=False,  # the matrices are divided by scale_ already
            dtype=dtype,
            domain_batchnorm=self.domain_batchnorm,
        )

    def _train(
        self,
        X: np.ndarray,
        targets: np.ndarray,
        domains: np.ndarray | None,
        epochs: int,
        whole: bool = True,
    ) -> Self:
        from manifoldkit._faces.training import train

        module = self.net_.module_
        double = next(module.parameters()).dtype == torch.float64
        dtype = np.float64 if double else np.float32
        X, targets = X.astype(dtype, copy=False), targets.astype(dtype, copy=False)
        inputs = {"x": X} if domains is None else {"x": X, "domains": domains}
        held = measure = None
        with self._randomness():
            if self.early_stopping:
                share, codes = self.validation_fraction, targets[:, 0]
                if domains is not None:
                    codes = codes * len(self.domains_) + domains
                rows, aside = split_off(len(X), share, self._seed, codes)
                held = {k: v[aside] for k, v in inputs.items()}, targets[aside]
                inputs = {k: v[rows] for k, v in inputs.items()}
                targets = targets[rows]
                measure = partial(self._accuracy, *held)
            loader = self._loader(inputs)
            self.net_, log = train(
                module,
                WeightedCrossEntropy(),
                (inputs, targets),
                held,
                optimizer=partial(
                    make_optimizer,
                    name=self.optimizer,
                    manifold_lr=self.manifold_lr,
                    weight_decay=self.weight_decay,
                ),
                lr=self.lr,
                epochs=epochs,
                batch_size=self.batch_size,
                loader=loader,
                patience=self.patience if self.early_stopping else None,
                measure=measure,
                columns=_COLUMNS,
                device=self.device,
                verbose=self.verbose,
                net=None if isinstance(self.net_, Loaded) else self.net_,
                whole=whole,
            )
        before = len(self.history_)
        self.history_ += [row | {"epoch": before + i} for i, row in enumerate(log, 1)]
        return self

    def _loader(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Options of the batches: none has a single matrix to normalize."""
        if "domains" in inputs:
            codes = inputs["domains"]
            check_pairs(codes, self.domains_)
            return {"iterator_train": partial(domain_loader, codes=codes)}
        n, size = len(inputs["x"]), self.batch_size
        return {"iterator_train__drop_last": n % size == 1 and n > 1 and size > 1}

    @property
    def _n_features_out(self) -> int:
        return self.net_.module_.n_features

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        module = self.net_.module_
        content = labels_content(self.classes_) | {
            "n_channels": int(self.n_channels_),
            "n_in": int(module.n_in),
            "scale": self.scale_,
            "seed": self._seed,
            "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
            "history": self.history_,
        }
        if self.input == "signal":
            content["covariances"] = {
                k: int(getattr(self.covariances_, k)) for k in _COVARIANCE_STATE
            }
        if self.domain_batchnorm:
            content["domains"] = labels_content(self.domains_)
        return module.state_dict(), content

    @staticmethod
    def _parameters(stored: dict[str, Any]) -> dict[str, Any]:
        if isinstance(stored["class_weight"], list):  # labels that are not strings
            stored["class_weight"] = dict(stored["class_weight"])
        return stored

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.classes_ = stored_labels(content)
        self.n_channels_, self.scale_ = content["n_channels"], content["scale"]
        self._seed, self.history_ = content["seed"], content["history"]
        if self.input == "signal":
            self.covariances_ = self._make_covariances()
            for name, value in content["covariances"].items():
                setattr(self.covariances_, name, value)
        if self.domain_batchnorm:
            self.domains_ = stored_labels(content["domains"])
        with self._randomness():
            module = self._network(content["n_in"], getattr(torch, content["dtype"]))
        self._adopt(module, tensors)
