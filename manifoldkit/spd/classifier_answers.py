"""What the SPDNet classifier answers, and how it adapts to a domain."""

import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._faces.estimator import evaluate
from manifoldkit.spd.adaptation import information_maximization
from manifoldkit.spd.classifier_inputs import NetworkInputs, check_kind
from manifoldkit.spd.networks import SPDNet

_PREDICT_BATCH = 512


class NetworkAnswers(NetworkInputs, TransformerMixin):
    """Predictions of a fitted network."""

    device: str
    classes_: np.ndarray
    net_: Any

    def _accuracy(
        self, inputs: dict[str, np.ndarray], targets: np.ndarray, module: SPDNet
    ) -> dict[str, float]:
        codes = self._batches(module, inputs, "forward").argmax(1)
        return {"valid_accuracy": float((codes == targets[:, 0]).mean())}

    def _batches(
        self, module: SPDNet, inputs: dict[str, np.ndarray], method: str
    ) -> np.ndarray:
        function, dtype = getattr(module, method), next(module.parameters()).dtype
        tensors = {
            k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in inputs.items()
        }
        tensors["x"] = tensors["x"].to(dtype)
        parts = evaluate(function, tensors, _PREDICT_BATCH, self.device)
        return torch.cat(parts).cpu().numpy()

    def _evaluate(
        self, X: ArrayLike, method: str, domains: ArrayLike | None
    ) -> np.ndarray:
        check_is_fitted(self, "net_")
        X = self._check_input(X)
        labels = self._domain_labels(domains, len(X))
        X, module = self._prepare(X), self.net_.module_.eval()
        if labels is None:
            return self._batches(module, {"x": X}, method)
        codes, module = self._with_unseen(module, X, labels)
        return self._batches(module, {"x": X, "domains": codes}, method)

    def _with_unseen(
        self, module: SPDNet, X: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, SPDNet]:
        """Codes of domains, and a network that has statistics of the new ones."""
        check_kind(labels, self.domains_)
        new = np.setdiff1d(labels, self.domains_)
        if len(new) and self.unseen == "error":
            raise ValueError(
                f"domains: expected some of {self.domains_.tolist()}, found "
                f"{new.tolist()[0]!r}; call adapt(X, {new.tolist()[0]!r}), or set "
                "unseen='adapt'"
            )
        codes = np.empty(len(labels), dtype=np.int64)
        known = ~np.isin(labels, new)
        codes[known] = self._codes(labels[known])
        if len(new):
            module = copy.deepcopy(module)
        for code, label in enumerate(new.tolist(), len(self.domains_)):
            codes[labels == label] = code
            self._adapt_network(module, X[labels == label], code)
        return codes, module

    def _adapt_network(self, module: SPDNet, X: np.ndarray, code: int) -> Tensor:
        dtype = next(module.parameters()).dtype
        x = torch.from_numpy(np.ascontiguousarray(X)).to(self.device, dtype)
        module.adapt(x, code)
        return x

    def adapt(
        self, X: ArrayLike, domain: Any, *, information: bool = False, **options: Any
    ) -> Self:
        """Give a domain, new or known, the statistics of its samples, without labels.

        Parameters
        ----------
        X : array-like
            At least two samples of the domain, as in :meth:`fit`.
        domain : int or str
            Its label.
        information : bool, default=False
            Then move its means by :func:`~manifoldkit.spd.information_maximization`:
            where class shares differ from those of training.
        **options
            Options of that function.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            There is no ``domain_batchnorm``, or fewer than two samples.
        """
        check_is_fitted(self, "net_")
        X = self._check_input(X)
        labels = self._domain_labels(np.repeat(domain, len(X)), len(X))
        before = self.domains_
        self._learn_domains(labels, fresh=False)
        code = int(np.flatnonzero(self.domains_ == domain)[0])
        module = self.net_.module_.eval()
        try:
            x = self._adapt_network(module, self._prepare(X), code)
        except ValueError:
            self.domains_ = before
            raise
        if information:
            information_maximization(module, x, code, **options)
        return self

    def predict_proba(
        self, X: ArrayLike, domains: ArrayLike | None = None
    ) -> np.ndarray:
        """Return class probabilities, shape (n_matrices, n_classes)."""
        scores = torch.from_numpy(self._evaluate(X, "forward", domains))
        return scores.softmax(-1).numpy()

    def decision_function(
        self, X: ArrayLike, domains: ArrayLike | None = None
    ) -> np.ndarray:
        """Return the class scores (logits); for two classes their difference."""
        scores = self._evaluate(X, "forward", domains)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: ArrayLike, domains: ArrayLike | None = None) -> np.ndarray:
        """Return the label of the largest score, shape (n_matrices,)."""
        codes = self._evaluate(X, "forward", domains).argmax(1)
        return self.classes_[codes]

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        domains: ArrayLike | None = None,
    ) -> float:
        """Return the accuracy."""
        found = self.predict(X, domains)
        return float(accuracy_score(y, found, sample_weight=sample_weight))

    def transform(self, X: ArrayLike, domains: ArrayLike | None = None) -> np.ndarray:
        """Return the LogEig features in front of the linear layer, (n_matrices, k)."""
        return self._evaluate(X, "features", domains)
