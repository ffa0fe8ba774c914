"""Handwritten digits: MNIST, and the container of images."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from manifoldkit._checks import check_choice, check_count
from manifoldkit.datasets.archive import (
    Arrays,
    Source,
    check_array,
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
CITATION = (
    "LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998 (from NIST "
    "special databases 1 and 3)"
)
LICENSE = "commonly given as CC BY-SA 3.0; see the publisher"
_MNIST = Source(
    "images/mnist8k.npz",
    "http://yann.lecun.com/exdb/mnist, mirrored at " + _MIRROR,
    "Call fetch_mnist with a network: pooch downloads the two t10k files (1.7 MB) and "
    "checks their SHA-256.",
    1_304_255,
    "4b01e3d09f1177a5f73eaf8193da9afe24a19ef14452372109884f7835d02693",
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
    check_images(X, y, file, 28)
    rows = "0 to 5999" if split == "train" else "6000 to 7999"
    images = ImageSet(
        X=X,
        y=y.astype(np.int64),
        name=f"mnist_{split}",
        is_real=True,
        provenance=f"MNIST, images {rows} of the t10k file",
        citation=CITATION,
        license=LICENSE,
    )
    return (images.X, images.y) if return_X_y else images


def check_images(X: np.ndarray, y: np.ndarray, file: Path, side: int) -> None:
    """Refuse the images of an archive unless they are labeled digits of one size."""
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
