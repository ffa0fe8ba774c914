"""Peak memory, each contestant in a process of its own: a peak never falls again."""

import subprocess
import sys
from pathlib import Path


def resident_peak():
    """In kB; not ``ru_maxrss``, which a child process inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("the kernel does not tell the peak of resident memory")


def peak_apart(module, *arguments):
    """Return what ``peak(*arguments)`` of a benchmark module says, in MB."""
    call = f"peak({', '.join(map(repr, arguments))})"
    code = f"from benchmarks.{module} import peak; print({call})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def memory_row(case, ours, peer_name, peer, target=""):
    """Return a row of the benchmark table from peaks in MB."""
    return {
        "case": case,
        "ours_s": 0.0,
        "peer": peer_name,
        "peer_s": 0.0,
        "ratio": ours / peer,
        "target": target,
        "note": f"{ours:.0f} MB against {peer:.0f} MB (no times in this row)",
    }
