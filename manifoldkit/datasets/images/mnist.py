"""Handwritten digits, and the same under affine maps."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from manifoldkit._checks import check_choice, check_count, check_interval
from manifoldkit.datasets.archive import (
    Arrays,
    Source,
    check_array,
    data_folder,
    obtain,
    read_archive,
    refuse,
)

if TYPE_CHECKING:
    import torch

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
#: SHA-256 of the two originals.
ORIGINALS = {
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
_N_TRAIN, _N_TEST = 6000, 2000
_CITATION = (
    "LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998 (from NIST "
    "special databases 1 and 3)"
)
_LICENSE = "commonly given as CC BY-SA 3.0; see the publisher"
_MNIST = Source(
    "images/mnist8k.npz",
    "http://yann.lecun.com/exdb/mnist, mirrored at " + _MIRROR,
    "Call fetch_mnist with a network: pooch downloads the two t10k files (1.7 MB) and "
    "checks their SHA-256.",
    1_304_255,
    "4b01e3d09f1177a5f73eaf8193da9afe24a19ef14452372109884f7835d02693",
)
_AFFINE = Source(
    "images/affine_mnist_test.npz",
    "this project, from MNIST",
    "Call fetch_affine_mnist where fetch_mnist works: the maps are drawn anew.",
    553_608,
    "c714e4b2466940414330fe4921dc68d49177f16e8e2851f3c2ef3cac36894fd6",
)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Gray images with labels and origin.

    Attributes
    ----------
    X : ndarray of uint8, shape (n_images, height, width)
        Gray values, 0 is the background.
    y : ndarray of int64, shape (n_images,)
        Digit.
    name : str
        Data set.
    is_real : bool
        Photographed or scanned (True) or drawn by a program.
    provenance, citation, license : str
        Origin in a sentence, what to cite, terms of use.
    affine : ndarray of float32, shape (n_images, 2, 3), optional
        ``[M | t]``, the map each image went through, on (row, column) coordinates
        around the center.
    """

    X: np.ndarray
    y: np.ndarray
    name: str
    is_real: bool
    provenance: str
    citation: str
    license: str
    affine: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        n, height, width = self.X.shape
        return f"ImageSet({self.name!r}, {n} images {height} x {width})"

    def to_torch(self, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (float32, in [0, 1], shape ``(n, 1, h, w)``) and labels.

        Parameters
        ----------
        size : int, optional
            Pad with background, or crop, around the center to this height and width.
        """
        import torch

        X = self.X if size is None else pad_images(self.X, size)
        images = torch.from_numpy(X.astype(np.float32) / 255)[:, None]
        return images, torch.from_numpy(self.y.astype(np.int64))


def pad_images(X: np.ndarray, size: int) -> np.ndarray:
    """Pad with zeros, or crop, around the center to ``(n, size, size)``.

    >>> pad_images(np.ones((1, 2, 2), dtype=np.uint8), 4)[0]
    array([[0, 0, 0, 0],
           [0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]], dtype=uint8)
    """
    check_count(size, "size")
    out = np.zeros((len(X), size, size), dtype=X.dtype)
    height, width = X.shape[1:]
    out[:, _middle(size, height), _middle(size, width)] = X[
        :, _middle(height, size), _middle(width, size)
    ]
    return out


def _middle(length: int, other: int) -> slice:
    """The middle of a length that an other length covers."""
    shared = min(length, other)
    start = (length - shared) // 2
    return slice(start, start + shared)


@overload
def fetch_mnist(
    split: str = ...,
    *,
    path: str | Path | None = ...,
    download: bool = ...,
    return_X_y: Literal[False] = ...,
) -> ImageSet: ...
@overload
def fetch_mnist(
    split: str = ...,
    *,
    path: str | Path | None = ...,
    download: bool = ...,
    return_X_y: Literal[True],
) -> Arrays: ...
def fetch_mnist(
    split: str = "train",
    *,
    path: str | Path | None = None,
    download: bool = True,
    return_X_y: bool = False,
) -> ImageSet | Arrays:
    """Load 6000 training or 2000 test images of handwritten digits, 28 x 28 pixels.

    They are the first 8000 images of MNIST's *test* file (t10k), which is small enough
    to pass around; the 60 000 training images are not used.

    Parameters
    ----------
    split : {"train", "test"}
        Images 0..5999 or 6000..7999 of that file.
    path : str or Path, optional
        Archive file or data folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Download what is not there.
    return_X_y : bool, default=False
        Return ``(X, y)`` only.

    Returns
    -------
    ImageSet

    Raises
    ------
    DatasetNotFoundError
        Not there and not downloadable; the message says where to get it.
    ValueError
        An unknown split, or an archive that is not the one expected.

    Examples
    --------
    >>> from manifoldkit.datasets import fetch_mnist
    >>> fetch_mnist("train")  # doctest: +SKIP
    ImageSet('mnist_train', 6000 images 28 x 28)
    """
    check_choice(split, ("train", "test"), "split")
    file = obtain(_MNIST, _convert_mnist, path, download)
    arrays = read_archive(file, [f"{a}_{s}" for a in "Xy" for s in ("train", "test")])
    X, y = arrays[f"X_{split}"], arrays[f"y_{split}"]
    _check_images(X, y, file, 28)
    rows = "0 to 5999" if split == "train" else "6000 to 7999"
    images = ImageSet(
        X=X,
        y=y.astype(np.int64),
        name=f"mnist_{split}",
        is_real=True,
        provenance=f"MNIST, images {rows} of the t10k file",
        citation=_CITATION,
        license=_LICENSE,
    )
    return (images.X, images.y) if return_X_y else images


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
    _check_images(X, y, file, 40)
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
        citation=_CITATION + "; after Tieleman, affNIST, 2013",
        license=_LICENSE,
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


def _check_images(X: np.ndarray, y: np.ndarray, file: Path, side: int) -> None:
    check_array(file, "X", X, (None, side, side), ("uint8",))
    check_array(file, "y", y, (len(X),), "iu")
    if not np.isin(y, range(10)).all():
        refuse(file, "y has labels outside 0..9")


def _convert_mnist() -> dict[str, np.ndarray]:
    """Download the t10k files, checked, and cut them into the two parts."""
    import pooch

    contents = []
    for name, digest in ORIGINALS.items():
        file = pooch.retrieve(_MIRROR + name, f"sha256:{digest}", fname=name)
        contents.append(gzip.decompress(Path(file).read_bytes()))
    X = np.frombuffer(contents[0], np.uint8, offset=16).reshape(-1, 28, 28)
    y = np.frombuffer(contents[1], np.uint8, offset=8).astype(np.int64)
    end = _N_TRAIN + _N_TEST
    return {
        "X_train": X[:_N_TRAIN],
        "y_train": y[:_N_TRAIN],
        "X_test": X[_N_TRAIN:end],
        "y_test": y[_N_TRAIN:end],
    }


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
