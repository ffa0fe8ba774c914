"""Real images that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from manifoldkit._checks import check_count, check_positive, check_selection
from manifoldkit.datasets.archive import Arrays

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class MatrixSet:
    """SPD matrices with labels and origin.

    Attributes
    ----------
    X : ndarray of float64, shape (n_matrices, n, n)
        SPD matrices.
    y : ndarray of str, shape (n_matrices,)
        Class names.
    features : tuple of str
        What the rows of the matrices stand for.
    name : str
        Data set.
    is_real : bool
        Made from recordings or images (True) or simulated.
    provenance, citation, license : str
        Origin in a sentence, what to cite, terms of use.
    """

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    name: str
    is_real: bool
    provenance: str
    citation: str
    license: str

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        n, p, _ = self.X.shape
        return f"MatrixSet({self.name!r}, {n} matrices {p} x {p})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in sorted order."""
        return tuple(str(c) for c in np.unique(self.y))

    def to_torch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return matrices (float64) and class indices (position in ``classes``)."""
        import torch

        codes = np.searchsorted(np.array(self.classes), self.y)
        return torch.from_numpy(self.X), torch.from_numpy(codes)


_FEATURES = ("x", "y", "intensity", "|Ix|", "|Iy|", "|Ixx|", "|Iyy|")


@overload
def load_digits_covariances(
    digits: tuple[int, ...] = ...,
    n_per_class: int | None = ...,
    *,
    ridge: float = ...,
    return_X_y: Literal[False] = ...,
) -> MatrixSet: ...
@overload
def load_digits_covariances(
    digits: tuple[int, ...] = ...,
    n_per_class: int | None = ...,
    *,
    ridge: float = ...,
    return_X_y: Literal[True],
) -> Arrays: ...
def load_digits_covariances(
    digits: tuple[int, ...] = (3, 8),
    n_per_class: int | None = None,
    *,
    ridge: float = 1e-3,
    return_X_y: bool = False,
) -> MatrixSet | Arrays:
    """Turn scikit-learn's handwritten digits into region covariance matrices.

    Real images (8 x 8 pixels, 1797 of them) that come with scikit-learn, so no network
    is needed. Every pixel gives the features position, intensity, first and second
    derivatives; their covariance over the image is the descriptor of Tuzel et al. A
    ridge of ``ridge * trace / n`` makes it positive definite.

    Parameters
    ----------
    digits : tuple of int
        Digits, out of 0..9.
    n_per_class : int, optional
        The first so many of each digit; all by default.
    ridge : float, default=1e-3
        Relative size of the ridge.
    return_X_y : bool, default=False
        Return ``(X, y)`` only.

    Returns
    -------
    MatrixSet

    Raises
    ------
    ValueError, TypeError
        A digit outside 0..9, none, a count below 1 or a ridge not above 0.

    References
    ----------
    .. [1] Tuzel, Porikli, Meer, "Region covariance: a fast descriptor for detection
           and classification", ECCV 2006.

    Examples
    --------
    >>> from manifoldkit.datasets import load_digits_covariances
    >>> load_digits_covariances((3, 8), n_per_class=20)
    MatrixSet('digits_covariances', 40 matrices 7 x 7)
    """
    from sklearn.datasets import load_digits

    check_positive(ridge, "ridge")
    if n_per_class is not None:
        check_count(n_per_class, "n_per_class")
    wanted = check_selection(digits, range(10), "digits")
    bunch = load_digits()
    rows = [np.flatnonzero(bunch.target == d)[:n_per_class] for d in wanted]
    index = np.sort(np.concatenate(rows))
    images = bunch.images[index] / 16.0
    matrices = MatrixSet(
        X=_region_covariances(images, ridge),
        y=bunch.target[index].astype(str),
        features=_FEATURES,
        name="digits_covariances",
        is_real=True,
        provenance=(
            f"scikit-learn's handwritten digits {', '.join(map(str, wanted))}, real "
            "8 x 8 images, region covariances of seven pixel features"
        ),
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, "
        "UCI Machine Learning Repository, 1998",
        license="CC BY 4.0",
    )
    return (matrices.X, matrices.y) if return_X_y else matrices


def _region_covariances(images: np.ndarray, ridge: float) -> np.ndarray:
    """Covariances of pixel features, for images (n, height, width)."""
    n, height, width = images.shape
    iy, ix = np.gradient(images, axis=(1, 2))
    second_y, second_x = np.gradient(iy, axis=1), np.gradient(ix, axis=2)
    rows, columns = np.mgrid[:height, :width]
    place = [np.broadcast_to(p / (width - 1), images.shape) for p in (columns, rows)]
    layers = [*place, images, *map(np.abs, (ix, iy, second_x, second_y))]
    features = np.stack(layers, axis=1).reshape(n, len(layers), -1)
    features = features - features.mean(-1, keepdims=True)
    covariance = features @ features.transpose(0, 2, 1) / (height * width - 1)
    trace = np.trace(covariance, axis1=1, axis2=2) / len(layers)
    return covariance + ridge * trace[:, None, None] * np.eye(len(layers))
