"""Draw the figures of the landing page: ``python docs/figures.py`` in a checkout.

One figure a geometry, written to ``docs/_static/NAME.svg``. Seeds are fixed and the
files carry no date, so that the same versions write the same files.
"""

from pathlib import Path

import matplotlib
import networkx as nx
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Polygon
from scipy.spatial.transform import Rotation

from manifoldkit import plotting
from manifoldkit.datasets import make_molecule_graphs, make_point_clouds
from manifoldkit.equivariant import pca_frame
from manifoldkit.graphs import SubgraphRetriever
from manifoldkit.lie import GLPlus
from manifoldkit.manifolds import SPD

FOLDER = Path(__file__).resolve().parent / "_static"
BLUE, RED, GREEN, _, YELLOW, SKY, GREY = plotting.PALETTE
SIZE = (5.4, 2.4)


def spd(figure):
    """Three ways from one covariance to another; the straight one swells."""
    ends = torch.tensor(
        [[[4.0, 1.7], [1.7, 0.8]], [[4.0, -1.7], [-1.7, 0.8]]], dtype=torch.float64
    )
    t = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None, None]
    a, b = ends[0].expand(7, 2, 2), ends[1].expand(7, 2, 2)
    rows = {
        "straight line": a + t * (b - a),
        "Bures-Wasserstein": SPD("bw").geodesic(t, a, b),
        "affine-invariant": SPD("airm").geodesic(t, a, b),
    }
    ax = figure.subplots()
    turn = np.linspace(0, 2 * np.pi, 80)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    shades = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.9, 7))
    for row, (name, path) in enumerate(rows.items()):
        for k, x in enumerate(path.numpy()):
            outline = np.linalg.cholesky(x) @ circle
            place = np.array([5.0 * k, -5.2 * row])
            look = {"facecolor": shades[k], "edgecolor": "black", "lw": 0.6}
            ax.add_patch(Polygon(outline.T + place, **look))
        size = float(path[3].det() / path[0].det())
        ax.text(-2.6, 2.2 - 5.2 * row, name, fontsize=9, weight="bold")
        ax.text(
            32.6,
            2.2 - 5.2 * row,
            f"determinant half-way: x {size:.1f}",
            fontsize=9,
            ha="right",
        )
    ax.set(xlim=(-2.8, 32.8), ylim=(-12.9, 3.4))
    ax.set_aspect("equal")
    ax.set_axis_off()


def lie(figure):
    """The letter F under elements of GL+(2): along a geodesic, and from a measure."""
    letter = np.array(
        [
            *[(0, 0), (0, 5), (3.2, 5), (3.2, 4), (1, 4), (1, 3), (2.6, 3), (2.6, 2)],
            *[(1, 2), (1, 0)],
        ]
    )
    letter = (letter - (1.6, 2.5)) / 5
    group = GLPlus(2)
    top = torch.tensor([[-0.2, -1.35], [0.75, -0.25]], dtype=torch.float64)
    coords = group.coords(top)[None] * torch.linspace(0, 1, 7).double()[:, None]
    path = group.from_coords(coords)
    g = torch.Generator().manual_seed(8)
    drawn = torch.rand(7, 4, generator=g, dtype=torch.float64) * 2 - 1
    scale = torch.tensor([0.45, 0.5, 0.45, 2.5], dtype=torch.float64)
    free = group.from_coords(drawn * scale)
    ax = figure.subplots()
    for row, elements in enumerate((path, free)):
        for k, element in enumerate(elements.numpy()):
            shape = letter @ element.T + (1.5 * k, -2.1 * row)
            color = matplotlib.colormaps["cividis"](0.1 + 0.8 * k / 6)
            ax.add_patch(
                Polygon(shape, facecolor=color if row == 0 else SKY, edgecolor="none")
            )
    heading = {"fontsize": 9, "weight": "bold"}
    ax.text(-0.7, 0.85, "a path in GL+(2), linear in its coordinates", **heading)
    ax.text(-0.7, -1.2, "elements drawn at random", **heading)
    ax.set(xlim=(-0.8, 9.9), ylim=(-3.1, 1.2))
    ax.set_aspect("equal")
    ax.set_axis_off()


def equivariant(figure):
    """The frame of a cloud turns with the cloud."""
    clouds = make_point_clouds(8, 500, shapes=("airplane",), random_state=4)
    cloud = np.float64(clouds.X[0])
    axes = figure.subplots(1, 3, subplot_kw={"projection": "3d"})
    for ax, seed in zip(axes, (None, 1, 3), strict=True):
        turn = np.eye(3) if seed is None else Rotation.random(rng=seed).as_matrix()
        x = cloud @ turn.T
        frame = pca_frame(torch.from_numpy(x), "SE(3)", signs="moment")
        center, vectors = frame.t, frame.R[frame.log_weights.argmax()]
        look = {"cmap": "cividis_r", "s": 5, "linewidths": 0, "rasterized": True}
        ax.scatter(*x.T, c=cloud[:, 0], **look)
        for column, color in zip(vectors.T.numpy(), (RED, GREEN, BLUE), strict=True):
            ax.quiver(*center.numpy(), *(0.75 * column), color=color, lw=2.4)
        ax.set_axis_off()
        ax.set_box_aspect((1, 1, 1), zoom=1.5)
        ax.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), zlim=(-0.9, 0.9))


def graphs(figure):
    """A fragment and the molecules that contain it, found exactly."""
    corpus = make_molecule_graphs(300, nodes=(13, 17), rings=0.4, random_state=1)
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    query = (9, np.array([*ring, (0, 6), (3, 7), (7, 8)]))
    search = SubgraphRetriever(model=None, filter="motif6", verify="all")
    found = search.index(corpus).search(query, k=3)
    axes = figure.subplots(1, 4)
    panels = [(query, range(9), "fragment", SKY)]
    for place, image in zip(found.ids, found.alignment, strict=True):
        panels.append((corpus[place], image, f"molecule {place}", YELLOW))
    for ax, (graph, image, title, color) in zip(axes, panels, strict=True):
        draw_graph(ax, graph, {int(v) for v in image}, color)
        ax.set_title(title, fontsize=9)


def draw_graph(ax, graph, inside, color):
    """Draw a graph; the nodes ``inside``, and the edges between them, in color."""
    n, edges = graph
    g = nx.empty_graph(n)
    g.add_edges_from(np.asarray(edges).tolist())
    place = nx.kamada_kawai_layout(g)
    points = np.array([place[v] for v in g])
    points = (points - points.mean(0)) @ np.linalg.svd(points - points.mean(0))[2].T
    points = points[:, ::-1]  # the long side upright
    points *= ((0.7, 1.15) / np.abs(points).max(0)).min()
    for own, tone, width in ((False, "#b0b0b0", 1.2), (True, color, 3.5)):
        lines = [points[[u, v]] for u, v in g.edges if ({u, v} <= inside) == own]
        ax.add_collection(LineCollection(lines, colors=tone, linewidths=width))
    tones = [color if v in inside else "#d9d9d9" for v in g]
    ax.scatter(*points.T, s=46, color=tones, edgecolor="white", linewidth=0.8, zorder=3)
    ax.set(xlim=(-0.8, 0.8), ylim=(-1.25, 1.25))
    ax.set_aspect("equal")
    ax.set_axis_off()


FIGURES = {
    "spd": spd,
    "lie": lie,
    "equivariant": equivariant,
    "graphs": graphs,
}


def write(folder=FOLDER):
    """Draw all figures into a folder; return the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in FIGURES.items():
        with plotting.style(), matplotlib.rc_context({"svg.hashsalt": name}):
            figure = Figure(figsize=SIZE, layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure)
            files.append(folder / f"{name}.svg")
            figure.savefig(files[-1], dpi=220, metadata={"Date": None})
    return files


if __name__ == "__main__":
    for file in write():
        print(file)
