"""Which figure of a stored result stands for it in the overview."""

from typing import Any, NamedTuple

from manifoldkit.experiments.result import Result

Row = dict[str, Any]


class Headline(NamedTuple):
    """A figure, where it is in the result, and the published one beside it.

    Attributes
    ----------
    what : str
        The figure in words, with its unit.
    where : dict
        Values by which the row of the metrics is found (the first that has them).
    value : str
        Column of the figure.
    form : str
        Format, such as ``".1%"``.
    between : str or pair of str, optional
        The interval's ends (two columns), or the values by seed (one).
    paper : pair, optional
        Values that find the published row, and its column.
    comparable : str
        What stands between the two; "" where the protocols agree.
    """

    what: str
    where: Row
    value: str
    form: str = ".3g"
    between: str | tuple[str, str] | None = None
    paper: tuple[Row, str] | None = None
    comparable: str = ""


HEADLINES = {
    "eeg_demo": Headline(
        "accuracy on imagined left and right hand, tangent space and SVM",
        {"task": "imagined left vs right", "pipeline": "tangent space + SVM"},
        "accuracy",
        ".1%",
        ("low", "high"),
        comparable="published on other data sets",
    ),
    "point_cloud_rotations": Headline(
        "accuracy on turned clouds of psb12, RISurConv with mesh normals",
        {"task": "psb12, 12 classes", "method": "RISurConv, mesh normals"},
        "turned",
        ".1%",
        comparable="published on ModelNet40",
    ),
    "affine_images": Headline(
        "accuracy on affine digits, equivariant network",
        {"pipeline": "affine-equivariant network"},
        "affine",
        ".1%",
        ("lowest_affine", "highest_affine"),
    ),
    "augmented_covariance": Headline(
        "accuracy on MAMEM, order and lag chosen on session 4",
        {"pipeline": "ACM + TS + SVM, chosen on session 4"},
        "accuracy",
        ".1%",
        ("low", "high"),
        comparable="published on other data sets",
    ),
    "eeg_transfer": Headline(
        "accuracy on simulated subjects left out, DomainAligner",
        {"task": "simulated mixings, 50:50", "pipeline": "TS + LR, DomainAligner"},
        "accuracy",
        ".1%",
        ("low", "high"),
    ),
    "spd_networks": Headline(
        "accuracy on MAMEM, SPDNet without normalization",
        {"pipeline": "SPDNet, no normalization"},
        "accuracy",
        ".1%",
        ("low", "high"),
        ({"method": "SPDNet"}, "MAMEM II"),
        "8 of 11 subjects, fewer epochs",
    ),
    "rotation_continuity": Headline(
        "mean error in degrees, 6D (mean / largest in the paper)",
        {"task": "reproduce rotations", "representation": "6D"},
        "mean",
        ".2f",
        "mean_by_seed",
        ({"representation": "6D"}, "sanity test: mean / largest"),
        "100 times fewer iterations",
    ),
    "particle_motion": Headline(
        "ADE on springs, EqMotion (ADE / FDE in the paper)",
        {"task": "springs", "method": "EqMotion"},
        "ade",
        ".4f",
        "ade_per_seed",
        ({"method": "EqMotion"}, "springs"),
        "another simulation and split",
    ),
    "pedestrian_motion": Headline(
        "minADE of 20 in meters, mean of five scenes (minADE / minFDE in the paper)",
        {"subset": "mean", "method": "EqMotion, 20 modes"},
        "min_ade",
        ".2f",
        "min_ade_per_seed",
        ({"method": "EqMotion (Xu et al. 2023)"}, "mean"),
        "checkpoints chosen on the test scene there",
    ),
    "graph_separation": Headline(
        "accuracy on EXP-classify in per cent, FA-GIN+ID",
        {"task": "EXP-classify", "method": "FA-GIN+ID"},
        "accuracy",
        ".0f",
        paper=({"method": "FA-GIN+ID"}, "EXP-classify"),
        comparable="60 epochs, 199 there",
    ),
    "subgraph_retrieval": Headline(
        "mean average precision on AIDS, IsoNet++ node",
        {"set": "aids", "method": "IsoNet++ node, 6000 steps"},
        "map",
        ".3f",
        "maps",
        ({"method": "IsoNet++ node"}, "aids"),
        "five epochs of up to a thousand",
    ),
    "monoid_sets": Headline(
        "accuracy of the second minimum at size 64, GRU tree (trained to 16)",
        {"task": "second minimum", "method": "GRU tree"},
        "size 64",
        ".1%",
    ),
    "monoid_graphs": Headline(
        "mean error of six tasks, GRU tree, graphs of the training's size",
        {"nodes": "15 to 24", "aggregation": "GRU tree"},
        "mean",
        ".4f",
    ),
    "traffic_virtual_nodes": Headline(
        "MAE on a week of METR-LA in mph, STGCN with ten virtual nodes",
        {"task": "METR-LA week", "method": "STGCN, 10 virtual nodes, semi-adaptive"},
        "mae",
        ".2f",
        comparable="published on LargeST",
    ),
}


def ours(result: Result, headline: Headline) -> str:
    """Return the figure with its interval, or where to look for it.

    >>> result = Result("n", "t", [{"method": "a", "x": 0.5, "xs": [0.4, 0.6]}])
    >>> ours(result, Headline("x", {"method": "a"}, "x", ".1%", "xs"))
    '50.0% (40.0% to 60.0%)'
    """
    row = find(result.metrics, headline.where)
    value = row.get(headline.value)
    if not isinstance(value, int | float):
        return "see the section"
    text, ends = format(value, headline.form), _ends(row, headline.between)
    if ends is None or ends[0] == ends[1]:
        return text
    low, high = (format(end, headline.form) for end in ends)
    return f"{text} ({low} to {high})"


def published(result: Result, headline: Headline) -> str:
    """Return the paper's figure as it is stored with the result, or a dash."""
    if headline.paper is None:
        return "-"
    where, column = headline.paper
    return str(find(result.paper, where).get(column, "-"))


def n_seeds(result: Result, headline: Headline | None) -> int:
    """Return how many seeds the figure is of, where its row says so.

    >>> result = Result("a", "A", [{"method": "a", "xs": [0.5]}], "", {}, [0, 1])
    >>> n_seeds(result, Headline("x", {"method": "a"}, "x", between="xs"))
    1
    """
    row = {} if headline is None else find(result.metrics, headline.where)
    if headline is not None and isinstance(headline.between, str):
        values = row.get(headline.between)
        if isinstance(values, list):
            return len(values)
    for key in ("seeds", "trainings"):
        if isinstance(row.get(key), int):
            return row[key]
    return len(result.seeds)


def find(rows: list[Row], where: Row) -> Row:
    """Return the first row that has these values, or an empty one."""
    return next((row for row in rows if where.items() <= row.items()), {})


def _ends(
    row: Row, between: str | tuple[str, str] | None
) -> tuple[float, float] | None:
    if isinstance(between, str):
        values = row.get(between) or []
        return (min(values), max(values)) if len(values) > 1 else None
    if between is None or any(row.get(key) is None for key in between):
        return None
    return row[between[0]], row[between[1]]
