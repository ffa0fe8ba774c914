"""ETH-UCY: pedestrians in five scenes, seen from above."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_choice, check_count, check_counts, check_positive
from manifoldkit.datasets.archive import (
    VARIABLE,
    data_folder,
    data_folders,
    one_at_a_time,
)
from manifoldkit.datasets.motion.tracks import (
    common_step,
    cut_windows,
    pack_windows,
    read_rows,
)
from manifoldkit.exceptions import DatasetNotFoundError

SUBSETS = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
_FOLDER = "eth_ucy"
_COMMIT = "e4fe8dd6df3b3d2033665c5f8ac3544e81c44db5"
_PUBLISHER = f"https://raw.githubusercontent.com/Khrylx/AgentFormer/{_COMMIT}/"
# Of each scene: the frame at which its validation part begins, while it is no test
# scene, and its originals without their ending.
SCENES = {
    "biwi_eth": (1024, ("eth/biwi_eth",)),
    "biwi_hotel": (1440, ("hotel/biwi_hotel",)),
    "students001": (355, ("univ/students001",)),
    "students003": (432, ("univ/students003",)),
    "crowds_zara01": (711, ("zara1/crowds_zara01",)),
    "crowds_zara02": (842, ("zara2/crowds_zara02",)),
    "crowds_zara03": (603, ("eth/crowds_zara03_train", "eth/crowds_zara03_val")),
    "uni_examples": (594, ("eth/uni_examples_train", "eth/uni_examples_val")),
}
_FIRST = {"biwi_eth": 78, "crowds_zara02": 1}  # first frames that are not 0
# SHA-256 of the originals in this order
_SHA256 = (
    "d7cdcedd6472ebaa794bc56e037542e350dfe2ee992f818ab8c417e9fc2a17ad",
    "90c4b0f7514b307b53481d8e2e23f9ba1ea9202d732634291c01267742d66746",
    "4071b40e8d23b485efc8376f697c66753df102903e2923092ab17694c0183249",
    "3a46399a7c5dc27b95e69c8cc75fa824494e69c0c317c0790a69bca5d5ee3a14",
    "7d2c9a70e33594dbaf3142ec97ade2bc07f41ea681cf0e399057c8fa1da0f5f8",
    "d085bffb646ff89afe5af7964feade56834a81197ba04f567db5a02fd607d4cf",
    "7e640fd562e4ad56ef27a0a8a555a43443824a0834b83e1c3bbaefad97790ede",
    "5251c0c7c1685187626e1ea242166a1691ed91f84b6aca214b9379a722ab9268",
    "5124a997ccef4fe8589e510616d9d8c2adf6b3e254e34d1b5d2741879e8cec76",
    "acc920f245ba7e309c1ddf349eb6b956342b6c95346a3182be81d6d040fbc023",
)


class PedestrianWindows(NamedTuple):
    """Windows of pedestrians' tracks, in meters, one step every 0.4 s.

    Attributes
    ----------
    past : ndarray, shape (n_windows, n_agents, history, 2)
        Observed positions; NaN where there is no agent.
    future : ndarray, shape (n_windows, n_agents, horizon, 2)
        What follows.
    mask : ndarray of bool, shape (n_windows, n_agents)
        True where there is an agent.
    scene : ndarray of str, shape (n_windows,)
        File that a window is from.
    frame : ndarray of int, shape (n_windows,)
        Its first frame.
    """

    past: np.ndarray
    future: np.ndarray
    mask: np.ndarray
    scene: np.ndarray
    frame: np.ndarray


def fetch_eth_ucy(
    subset: str = "zara1",
    split: str = "test",
    n_agents: int | None = None,
    radius: float = 5.0,
    history: int = 8,
    horizon: int = 12,
    *,
    path: str | Path | None = None,
    download: bool = True,
) -> PedestrianWindows:
    """Load ETH-UCY, downloading it on first use (8 MB, SHA-256 checked).

    Parameters
    ----------
    subset, split, n_agents, radius, history, horizon
        As in :func:`load_eth_ucy`.
    path : str or Path, optional
        Data folder, or the folder of the scenes; default the folder
        ``MANIFOLDKIT_DATA``, then the user's cache.
    download : bool, default=True
        Allow the download.

    Returns
    -------
    PedestrianWindows

    Raises
    ------
    DatasetNotFoundError
        Not on this machine, and the download is not allowed or failed.

    References
    ----------
    .. [1] S. Pellegrini et al., "You'll never walk alone", ICCV 2009.
    .. [2] A. Lerner et al., "Crowds by example", Eurographics 2007.

    Examples
    --------
    >>> windows = fetch_eth_ucy("zara1", "test")  # doctest: +SKIP
    >>> windows.past.shape  # doctest: +SKIP
    (705, 22, 8, 2)
    """
    options = (subset, split, n_agents, radius, history, horizon)
    for folder in _folders(path):
        if all((folder / f"{scene}.txt").is_file() for scene in SCENES):
            return load_eth_ucy(folder, *options)
    target = data_folder(path) / _FOLDER
    reason = "download=False"
    if download:
        try:
            with one_at_a_time(target / "scenes"):
                if not all((target / f"{scene}.txt").is_file() for scene in SCENES):
                    _download(target)
            return load_eth_ucy(target, *options)
        except ImportError:
            raise
        except Exception as error:  # whatever the network and pooch raise
            reason = f"the download failed: {type(error).__name__}: {error}"
    raise DatasetNotFoundError(
        f"ETH-UCY (eight text files of 2.4 MB in all) is not in {target} ({reason}). "
        f"Publisher of this form: {_PUBLISHER}datasets/eth_ucy. Call fetch_eth_ucy "
        f"with a network, or name the folder of the files by path= or {VARIABLE}."
    )


def load_eth_ucy(
    root: str | Path,
    subset: str,
    split: str,
    n_agents: int | None = None,
    radius: float = 5.0,
    history: int = 8,
    horizon: int = 12,
) -> PedestrianWindows:
    r"""Cut the tracks below a folder into windows, leaving one scene out.

    A window is ``history + horizon`` frames one step apart, at every frame; an agent
    belongs to it when it was seen in all of them, so that gaps are never bridged. The
    step is each file's most common distance between a pedestrian's frames: 1, or 10
    where they count 780, 790, ... "test" is the subset's own scenes;
    "train" and "val" are the other scenes, each cut in time, and windows never cross
    the cut.

    Parameters
    ----------
    root : str or Path
        Folder of ``biwi_eth.txt`` and so on: rows "frame pedestrian x y" in any order,
        separated by blanks, tabs, commas or semicolons, under names of columns or not.
    subset : {"eth", "hotel", "univ", "zara1", "zara2"}
        The scene left out.
    split : {"train", "val", "test"}
        "test" for the scene left out, "train" or "val" for parts of the others.
    n_agents : int, optional
        Instead of whole windows, one sample for every agent of every window: the agent
        first, then its nearest ones at the last observed step, up to this number.
        Default all agents of a window together.
    radius : float, default=5.0
        Largest distance of those neighbors, in meters.
    history, horizon : int, default=8, 12
        Observed and future steps.

    Returns
    -------
    PedestrianWindows

    Raises
    ------
    ValueError
        Unknown subset or split; counts out of range; a file that is none of these, or
        whose frames have no common step.
    DatasetNotFoundError
        A file is missing.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> rows = [f"{t} {k} {t}.5 {k}" for t in range(20) for k in (1, 2)]
    >>> _ = (root / "biwi_eth.txt").write_text("\n".join(rows))
    >>> windows = load_eth_ucy(root, "eth", "test")
    >>> windows.past.shape, windows.future[0, 1, -1].tolist()
    ((1, 2, 8, 2), [19.5, 2.0])
    """
    check_choice(subset, SUBSETS, "subset")
    check_choice(split, ("train", "val", "test"), "split")
    check_counts(history=history, horizon=horizon)
    if n_agents is not None:
        check_count(n_agents, "n_agents")
    check_positive(radius, "radius")
    own = SUBSETS[subset]
    scenes = own if split == "test" else [s for s in SCENES if s not in own]
    parts = []
    for scene in scenes:
        file = Path(root) / f"{scene}.txt"
        rows = _read_scene(file)
        step = common_step(rows, file)
        if split != "test":
            number = _published_number(rows[:, 0], scene, step)
            early = number < SCENES[scene][0]
            rows = rows[early if split == "train" else ~early]
        found = cut_windows(rows, history + horizon, step)
        parts += [(scene, frame, tracks) for frame, tracks in found]
    return PedestrianWindows(*pack_windows(parts, history, horizon, n_agents, radius))


def _read_scene(file: Path) -> np.ndarray:
    """Rows frame, pedestrian, x, y, sorted by frame."""
    if not file.is_file():
        raise DatasetNotFoundError(
            f"{file} is not there: expected the text files of ETH-UCY in {file.parent}"
        )
    try:
        rows = read_rows(file)
    except ValueError as error:
        raise ValueError(f"{error} (of ETH-UCY: 'frame pedestrian x y')") from None
    if rows.shape[1] != 4:
        raise ValueError(
            f"{file}: expected rows 'frame pedestrian x y', found a third "
            "coordinate; load_tracks reads such files"
        )
    return rows


def _published_number(frames: np.ndarray, scene: str, step: int) -> np.ndarray:
    """Return frames as the publisher counts them, one a step, where the cut is given.

    Files that count otherwise have the published number times the step, or begin
    elsewhere, which is then taken for the published beginning.
    """
    if step == 1:
        return frames
    first = _FIRST.get(scene, 0)
    offset = frames.min(initial=first * step) - first * step
    if abs(offset) >= step and step != 10:
        return first + (frames - frames.min()) // step
    return (frames - (offset if abs(offset) < step else 0)) // step


def _folders(path: str | Path | None) -> list[Path]:
    """Where the text files may lie."""
    folders = data_folders(path)
    return [place for folder in folders for place in (folder, folder / _FOLDER)]


def _download(target: Path) -> None:
    """Download the originals and write their four informative columns."""
    import pooch

    digests = iter(_SHA256)
    for scene, (_, parts) in SCENES.items():
        lines = []
        for name in parts:
            file = pooch.retrieve(
                f"{_PUBLISHER}datasets/eth_ucy/{name}.txt",
                f"sha256:{next(digests)}",
                path=target / "originals",
                fname=f"{Path(name).name}.txt",
            )
            lines += _informative_columns(Path(file).read_text())
        temporary = target / f"{scene}.txt.part"
        temporary.write_text("\n".join(lines) + "\n")
        temporary.replace(target / f"{scene}.txt")


def _informative_columns(text: str) -> list[str]:
    """Rows 'frame pedestrian x y' of rows with 17 columns, numbers as they stand.

    >>> row = "78.0 1.0 Pedestrian" + 10 * " -1.0" + " 8.46 -1.0 3.59 -1.0"
    >>> _informative_columns(row)
    ['78 1 8.46 3.59']
    """
    rows = (line.split() for line in text.splitlines())
    return [f"{int(float(r[0]))} {int(float(r[1]))} {r[13]} {r[15]}" for r in rows if r]
