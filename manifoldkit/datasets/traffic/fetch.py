"""Traffic: readings of road sensors with their graph."""

from pathlib import Path
from typing import Any

import numpy as np

from manifoldkit.datasets.archive import Source, check_array, obtain, read_archive
from manifoldkit.datasets.traffic.convert import metr_la_week
from manifoldkit.datasets.traffic.data import TrafficData

_TGCN = "https://github.com/lehaifeng/T-GCN"
_HAGUE = "https://github.com/mmtop/UrbanDCRNN"
_METR_LA_WEEK = Source(
    "traffic/metr_la_week.npz",
    f"{_TGCN} (readings), https://github.com/liyaguang/DCRNN (sensor graph)",
    "Call fetch_metr_la with a network: it downloads los_speed.csv, the list of "
    "sensors and their road distances.",
    667_000,
    "7a63642c58d90cf861a1ebe05e83d882ba688d45a7c174bb75ec5dfd30f14ccf",
)
_HAGUE_MONTH = Source(
    "traffic/denhaag_2019_11.npz",
    _HAGUE,
    "The originals are spread over several tables that are matched by hand; only the "
    "archive is read.",
    433_000,
    "bee01a3268005540260aa6f95e175d5369fe1cf3353b81c774b52513131842f6",
)


def fetch_metr_la(
    *, path: str | Path | None = None, download: bool = True
) -> TrafficData:
    """Load one week of METR-LA: 207 loop detectors in Los Angeles, 5-minute speeds.

    The first week of March 2012 in the form published with T-GCN, in which missing
    readings were filled by interpolation. The whole set is read by
    :func:`load_traffic` from its publisher's file.

    Parameters
    ----------
    path : str or Path, optional
        Data folder or archive; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Allow the download.

    Returns
    -------
    TrafficData
        2016 rows, speeds in miles per hour; split 7:1:2 in time.

    Raises
    ------
    DatasetNotFoundError
        Not on this machine, and the download is not allowed or failed.

    References
    ----------
    .. [1] Y. Li et al., "Diffusion convolutional recurrent neural network", ICLR
       2018.
    .. [2] L. Zhao et al., "T-GCN: a temporal graph convolutional network for traffic
       prediction", IEEE T-ITS 2020.

    Examples
    --------
    >>> fetch_metr_la()  # doctest: +SKIP
    TrafficData('METR-LA week', 2016 rows of 5 min, 207 sensors)
    """
    file = obtain(_METR_LA_WEEK, metr_la_week, path, download)
    return _from_archive(
        file,
        name="METR-LA week",
        unit="mph",
        citation="Li et al., ICLR 2018; Zhao et al., IEEE T-ITS 2020",
        license="repository MIT; readings by LA Metro, for research",
        provenance=(
            "207 loop detectors of Los Angeles County, 1 to 7 March 2012, 5-minute "
            "mean speeds, gaps interpolated by T-GCN"
        ),
        split=(1411, 1613),
        mape_floor=1.0,
    )


def fetch_the_hague(
    *, path: str | Path | None = None, download: bool = True
) -> TrafficData:
    """Load one month of The Hague: 123 lane sensors at 13 junctions, 15-minute counts.

    Parameters
    ----------
    path : str or Path, optional
        Data folder or archive; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    download : bool, default=True
        Kept for symmetry: the publisher's tables are matched by hand, so there is
        nothing to download automatically.

    Returns
    -------
    TrafficData
        2880 rows (November 2019), vehicles per 15 minutes; split 6:2:2 in time.
        ``extra`` holds ``distance_m``, ``legal_cost_m``, ``junction``, ``lane_type``
        and ``direction``.

    Raises
    ------
    DatasetNotFoundError
        Not on this machine.

    Examples
    --------
    >>> fetch_the_hague()  # doctest: +SKIP
    TrafficData('The Hague', 2880 rows of 15 min, 123 sensors)
    """
    file = obtain(_HAGUE_MONTH, dict, path, download=False)
    return _from_archive(
        file,
        name="The Hague",
        unit="vehicles per 15 min",
        citation="repository mmtop/UrbanDCRNN",
        license="MIT",
        provenance=(
            "123 lane sensors at 13 signaled junctions of The Hague, November 2019, "
            "15-minute counts"
        ),
        split=(1728, 2304),
        mape_floor=10.0,
    )


def _from_archive(file: Path, **words: Any) -> TrafficData:
    keys = ("values", "adjacency", "start", "step_minutes")
    arrays = read_archive(file, keys)
    values = arrays.pop("values")
    check_array(file, "values", values, (None, None, 1))
    named: dict[str, Any] = {
        k: arrays.pop(k) for k in ("lat", "lon", "sensor_id") if k in arrays
    }
    return TrafficData(
        values[..., 0],
        arrays.pop("adjacency"),
        np.datetime64(arrays.pop("start").item(), "m"),
        int(arrays.pop("step_minutes")),
        extra=arrays,
        **named,
        **words,
    )
