"""What becomes of frames once they are built: degenerate ones, and random choices."""

import warnings
from collections.abc import Callable

import torch

from manifoldkit.equivariant.frames.types import Frame, merge_frames
from manifoldkit.linalg.checks import known_any


def settle_degenerate(
    frame: Frame, policy: str, pair_frame: Callable[[], Frame]
) -> Frame:
    """Treat the clouds whose axes are arbitrary.

    Parameters
    ----------
    frame : Frame
        Frames of a batch.
    policy : {"warn", "raise", "pair"}
        Warn, raise, or give them the frames that ``pair_frame`` returns. While values
        cannot be read nobody is warned, and pair frames are made for all.

    Raises
    ------
    ValueError
        There is one, and the policy says so.
    """
    flagged = frame.degenerate
    some = known_any(flagged)
    if some is False or (some is None and policy != "pair"):
        return frame
    if policy == "pair":
        return merge_frames(frame, pair_frame(), flagged)
    text = (
        f"{int(flagged.sum())} of {len(flagged)} inputs have (nearly) equal "
        "eigenvalues: their principal axes are arbitrary and the average is not "
        "equivariant there. Use frame='pair' or on_degenerate='pair'."
    )
    if policy == "raise":
        index = int(flagged.nonzero()[0])
        raise ValueError(
            f"inputs[{index}]: relative gap {float(frame.gap[index]):.1e}; {text}"
        )
    warnings.warn(text, UserWarning, stacklevel=6)  # the call of the module
    return frame


def draw_elements(frame: Frame, count: int, together: bool, weighted: bool) -> Frame:
    """Draw elements of every frame, which then weigh the same.

    Parameters
    ----------
    frame : Frame
        Frames of a batch.
    count : int
        Elements to draw.
    together : bool
        Draw the same ones for the whole batch, as images are turned.
    weighted : bool
        Draw by weight, and again where one has been drawn; else every element at most
        once, so that all of them are the whole frame.
    """
    if together:
        picked = torch.randperm(frame.R.shape[1])[:count].to(frame.R.device)
    else:
        chances = frame.log_weights.detach().exp()
        if not chances.numel():
            return frame
        count = count if weighted else min(count, chances.shape[1])
        picked = torch.multinomial(chances, count, replacement=weighted)
    chosen = frame.elements(picked)
    even = torch.full_like(chosen.log_weights, 1.0 / picked.shape[-1]).log()
    return chosen._replace(log_weights=even)
