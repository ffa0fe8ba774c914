"""Fair timing: one thread, the contestants interleaved, medians."""

import statistics
import time
from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits


def compare(
    contestants: dict[str, Callable[[], object]], repeats: int = 9, warmup: int = 1
) -> dict[str, float]:
    """Return the median seconds of each contestant.

    Every round runs each of them once, so that a slow moment of the machine hits all
    alike; a single thread is used by torch, BLAS and OpenMP.

    Parameters
    ----------
    contestants : dict of name to callable without arguments
    repeats : int
        Number of rounds that count.
    warmup : int
        Rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for round_ in range(warmup + repeats):
                for name, run in contestants.items():
                    start = time.perf_counter()
                    run()
                    if round_ >= warmup:
                        seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(
    case: str,
    ours: float,
    peer: str = "",
    peer_s: float = 0.0,
    target: str = "",
    note: str = "",
) -> dict[str, object]:
    """Return a row of the benchmark table from measured seconds."""
    return {
        "case": case,
        "ours_s": ours,
        "peer": peer,
        "peer_s": peer_s,
        "ratio": ours / peer_s if peer_s else None,
        "target": target,
        "note": note,
    }


def ratio_row(
    case: str,
    ours: Callable[[], object],
    peer_name: str,
    peer: Callable[[], object],
    *,
    repeats: int = 9,
    **extra: object,
) -> dict[str, object]:
    """Time ours against one peer; return a row of the benchmark table."""
    warmup = max(1, repeats // 9)
    seconds = compare({"ours": ours, "peer": peer}, repeats, warmup)
    return row(case, seconds["ours"], peer_name, seconds["peer"]) | extra
