"""Handwritten digits under affine maps."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_count, check_interval
from manifoldkit.datasets.archive import (
    Arrays,
    Source,
    check_array,
    data_folder,
    obtain,
    read_archive,
)
from manifoldkit.datasets.images.mnist import (
    CITATION,
    LICENSE,
    ImageSet,
    check_images,
    fetch_mnist,
)

_AFFINE = Source(
    "images/affine_mnist_test.npz",
    "this project, from MNIST",
    "Call fetch_affine_mnist where fetch_mnist works: the maps are drawn anew.",
    553_608,
    "c714e4b2466940414330fe4921dc68d49177f16e8e2851f3c2ef3cac36894fd6",
)


@overload
def fetch_affine_mnist(
    *, path: str | Path | None = ..., download: bool = ..., return_X_y: Literal[True]
) -> Arrays: ...
@overload
def fetch_affine_mnist(
    *,
    path: str | Path | None = ...,
    download: bool = ...,
    return_X_y: Literal[False] = ...,
) -> ImageSet: ...
def fetch_affine_mnist(
    *,
    path: str | Path | None = None,
    download: bool = True,
    return_X_y: bool = False,
) -> ImageSet | Arrays:
    """Load the 2000 test digits of MNIST, each under one random affine map, 40 x 40.

    In the style of affNIST, but not that set: say "affine MNIST (ours)". Rotation up to
    20 degrees, shear up to 0.2, a scale of 0.8 to 1.2 along each axis, a shift of up to
    6 pixels. Without the archive the maps are drawn anew by
    :func:`make_affine_digits` from ``fetch_mnist("test")``; ``provenance`` says which.

    Parameters
    ----------
    path, download, return_X_y
        As in :func:`fetch_mnist`.

    Returns
    -------
    ImageSet
        With ``affine``, the maps.

    Raises
    ------
    DatasetNotFoundError
        Neither this set nor MNIST is there or downloadable.
    """
    file = obtain(_AFFINE, lambda: _convert_affine(path, download), path, True)
    arrays = read_archive(file, ("X", "y", "affine"))
    X, y, affine = arrays["X"], arrays["y"], arrays["affine"]
    check_images(X, y, file, 40)
    check_array(file, "affine", affine, (len(X), 2, 3))
    drawn = str(arrays.get("origin", "the maps of the published figures"))
    images = ImageSet(
        X=X,
        y=y.astype(np.int64),
        affine=affine.astype(np.float32),
        name="affine_mnist",
        is_real=True,
        provenance=(
            "affine MNIST (ours): MNIST test images under one random affine map each, "
            f"in the style of affNIST; {drawn}"
        ),
        citation=CITATION + "; after Tieleman, affNIST, 2013",
        license=LICENSE,
    )
    return (images.X, images.y) if return_X_y else images


class _Maps(TypedDict, total=False):
    size: int
    rotation: float
    shear: float
    scale: float
    translation: float
    severity: float
    random_state: int | np.random.Generator | None


@overload
def make_affine_digits(
    X: np.ndarray | None = ...,
    y: ArrayLike | None = ...,
    *,
    return_X_y: Literal[False] = ...,
    **maps: Unpack[_Maps],
) -> ImageSet: ...
@overload
def make_affine_digits(
    X: np.ndarray | None = ...,
    y: ArrayLike | None = ...,
    *,
    return_X_y: Literal[True],
    **maps: Unpack[_Maps],
) -> Arrays: ...
def make_affine_digits(
    X: np.ndarray | None = None,
    y: ArrayLike | None = None,
    *,
    size: int = 40,
    rotation: float = 20.0,
    shear: float = 0.2,
    scale: float = 0.2,
    translation: float = 6.0,
    severity: float = 1.0,
    random_state: int | np.random.Generator | None = 0,
    return_X_y: bool = False,
) -> ImageSet | Arrays:
    r"""Put images on a larger frame under random affine maps.

    Each image goes through :math:`p \mapsto M p + t` about its center, where
    :math:`M = R(\theta) \begin{pmatrix} 1 & s \\ 0 & 1 \end{pmatrix}
    \operatorname{diag}(a, b)`, by bilinear interpolation.

    Parameters
    ----------
    X : ndarray of uint8, shape (n, height, width), optional
        Images; scikit-learn's 1797 digits, enlarged to 24 x 24, by default.
    y : ndarray, shape (n,), optional
        Their labels; needed with ``X``.
    size : int, default=40
        Height and width of the frame.
    rotation : float
        Largest angle in degrees.
    shear : float
        Largest ``|s|``.
    scale : float
        ``a`` and ``b`` lie in ``[1 - scale, 1 + scale]``.
    translation : float
        Largest shift of rows and of columns in pixels.
    severity : float, default=1.0
        Multiplies all four; 0 only pads.
    random_state : int, Generator or None
        Seed of the draw.
    return_X_y : bool, default=False
        Return ``(X, y)`` only.

    Returns
    -------
    ImageSet

    Raises
    ------
    ValueError, TypeError
        Images that are not uint8 or have no labels; ranges that are no numbers of at
        least 0; a scale that would reach 0; a size that is no integer of at least 1.

    Examples
    --------
    >>> from manifoldkit.datasets import make_affine_digits
    >>> make_affine_digits()
    ImageSet('affine_digits', 1797 images 40 x 40)
    """
    check_count(size, "size")
    ranges = {"rotation": rotation, "shear": shear, "translation": translation}
    for name, value in {**ranges, "scale": scale, "severity": severity}.items():
        check_interval(value, name, 0)
    if scale * severity >= 1:
        raise ValueError(
            f"scale: expected scale * severity < 1, found {scale * severity:g}"
        )
    own = X is None
    X, labels = _enlarged_digits() if X is None else _checked(X, y)
    rng = np.random.default_rng(random_state)
    draws = rng.uniform(-1, 1, (6, len(X))) * severity
    affine = _affine_maps(draws, np.deg2rad(rotation), shear, scale, translation)
    source = "scikit-learn's handwritten digits, enlarged" if own else "given images"
    images = ImageSet(
        X=warp_images(X, affine, size),
        y=labels,
        affine=affine.astype(np.float32),
        name="affine_digits",
        is_real=own,
        provenance=f"{source}, each under a random affine map, severity {severity:g}",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, "
        "UCI Machine Learning Repository, 1998"
        if own
        else "that of the images",
        license="CC BY 4.0" if own else "that of the images",
    )
    return (images.X, images.y) if return_X_y else images


def _affine_maps(
    draws: np.ndarray, rotation: float, shear: float, scale: float, translation: float
) -> np.ndarray:
    """Maps ``[R(angle) skew diag(a, b) | t]`` of six draws in [-1, 1] for each."""
    angle, s, a, b, *t = draws
    c, d = np.cos(rotation * angle), np.sin(rotation * angle)
    one, none = np.ones(len(s)), np.zeros(len(s))
    turn = np.stack([c, -d, d, c], -1).reshape(-1, 2, 2)
    skew = np.stack([one, shear * s, none, one], -1).reshape(-1, 2, 2)
    stretch = 1 + scale * np.stack([a, b], -1)
    M = turn @ skew * stretch[:, None, :]
    return np.concatenate([M, translation * np.stack(t, -1)[..., None]], -1)


def warp_images(X: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """Move images by affine maps onto frames of ``size`` pixels, bilinear.

    Parameters
    ----------
    X : ndarray of uint8, shape (n, height, width)
        Images.
    affine : ndarray, shape (n, 2, 3)
        ``[M | t]`` on (row, column) coordinates about the centers.
    size : int
        Height and width of the frames.

    Returns
    -------
    ndarray of uint8, shape (n, size, size)
    """
    from scipy.ndimage import affine_transform

    inverse = np.linalg.inv(affine[:, :, :2].astype(float))
    source = (np.array(X.shape[1:]) - 1) / 2
    center = (size - 1) / 2 + affine[:, :, 2]
    offset = source - (inverse @ center[..., None])[..., 0]
    out = np.empty((len(X), size, size), dtype=np.uint8)
    for i, image in enumerate(X.astype(float)):
        moved = affine_transform(
            image, inverse[i], offset[i], output_shape=(size, size), order=1
        )
        out[i] = np.round(moved)
    return out


def _enlarged_digits() -> Arrays:
    """scikit-learn's digits at 24 x 24, gray values 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    X = np.round(bunch.images * 255 / 16).astype(np.uint8)
    same = np.broadcast_to(np.hstack([3 * np.eye(2), np.zeros((2, 1))]), (len(X), 2, 3))
    return warp_images(X, same, 24), bunch.target.astype(np.int64)


def _checked(X: np.ndarray, y: ArrayLike | None) -> Arrays:
    X = np.asarray(X)
    if X.ndim != 3 or X.dtype != np.uint8:
        raise ValueError(
            "X: expected uint8 images of shape (n, height, width), found "
            f"{X.dtype} of shape {X.shape}"
        )
    if y is None or np.shape(y) != (len(X),):
        raise ValueError(
            f"y: expected {len(X)} labels, found "
            f"{'none' if y is None else f'shape {np.shape(y)}'}"
        )
    y = np.asarray(y)
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise ValueError("y: expected labels, found NaN")
    return X, y


def _convert_affine(path: str | Path | None, download: bool) -> dict[str, np.ndarray]:
    """Draw the maps anew."""
    path = None if path is None else data_folder(path)
    test = fetch_mnist("test", path=path, download=download)
    made = make_affine_digits(test.X, test.y, random_state=2013)
    return {
        "X": made.X,
        "y": made.y,
        "affine": np.asarray(made.affine),
        "origin": np.array("maps drawn by manifoldkit, random_state 2013"),
    }
