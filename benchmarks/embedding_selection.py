"""Choice of order and lag: time for 100 trials x 20 channels x 1000 samples."""

import numpy as np
from scipy.signal import butter, sosfiltfilt

from benchmarks.timing import compare
from manifoldkit.spd import select_delay_embedding


def run():
    """Return the rows; there is no peer in Python, the target is in seconds."""
    noise = np.random.default_rng(0).standard_normal((100, 20, 1000))
    sos = butter(4, (8, 35), "bandpass", fs=250, output="sos")
    X = sosfiltfilt(sos, noise)
    rows = []
    for method, target in (
        ("mdop", "20 s"),
        ("afnn", ""),
        ("bic", ""),
        ("uniform", ""),
    ):

        def ours(method=method):
            return select_delay_embedding(X, method, random_state=0)

        chosen = ours()
        seconds = compare({"ours": ours}, repeats=3, warmup=0)["ours"]
        rows.append(
            {
                "case": f"{method}, 8-35 Hz noise, one thread",
                "ours_s": seconds,
                "peer": "",
                "peer_s": None,
                "ratio": None,
                "target": target,
                "note": f"order {chosen.order}, lag {chosen.lag}",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
