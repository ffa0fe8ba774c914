"""The experiments and data sets by name: what the command line and the page list."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Dataset(NamedTuple):
    """A data set that experiments use.

    Attributes
    ----------
    loader : str
        Function of :mod:`manifoldkit.datasets`.
    about : str
        One line.
    archives : tuple of str
        Files below a data folder; a name with a field is a family, one a subject.
    calls : tuple of dict
        Arguments with which the loader fetches all parts.
    download : bool
        Whether the loader can download it.
    """

    loader: str
    about: str
    archives: tuple[str, ...]
    calls: tuple[dict[str, Any], ...] = ({},)
    download: bool = True

    @property
    def has_subjects(self) -> bool:
        """Whether the loader takes subjects."""
        return any("{" in archive for archive in self.archives)

    def here(self, find: Callable[[str], Path | None]) -> bool:
        """Whether all archives (the first subject of a family) are on this machine."""
        return all(find(archive.format(1)) for archive in self.archives)


class Experiment(NamedTuple):
    """An experiment: a module of :mod:`manifoldkit.experiments` with a ``run``.

    Attributes
    ----------
    module : str
        Its place below :mod:`manifoldkit.experiments`, such as "spd.eeg_demo".
    about, paper, cost : str
        One line, the method's paper, the time of a full run on two cores.
    data : tuple of str
        Names of data sets; without them the experiment says what it does instead.
    ddp : bool
        Whether its training goes to several devices (``--devices``).
    """

    module: str
    about: str
    paper: str
    cost: str
    data: tuple[str, ...] = ()
    ddp: bool = False

    def load(self) -> ModuleType:
        """Import the module."""
        return import_module(f"manifoldkit.experiments.{self.module}")


_SUBGRAPH_FILES = ("aids", "mutag", "ptc_fm", "ptc_fr", "ptc_mm")
EXPERIMENTS = {
    "eeg_demo": Experiment(
        "spd.eeg_demo",
        "motor imagery: plain and augmented covariances",
        "Carrara and Papadopoulo 2024",
        "2-4 min",
        ("physionet_mi",),
    ),
    "augmented_covariance": Experiment(
        "spd.augmented_covariance",
        "order and lag on PhysioNet and MAMEM, over seeds",
        "Carrara and Papadopoulo 2024",
        "10-20 min",
        ("physionet_mi", "mamem"),
    ),
    "eeg_transfer": Experiment(
        "spd.eeg_transfer",
        "subjects and sessions left out: alignment of domains",
        "Zanini et al. 2018",
        "10-30 min",
        ("mamem",),
    ),
    "spd_networks": Experiment(
        "spd.spd_networks",
        "SPD batch normalizations on MAMEM and ill-conditioned matrices",
        "Wang et al. 2025",
        "40-60 min",
        ("mamem",),
        ddp=True,
    ),
    "rotation_continuity": Experiment(
        "lie.rotation_continuity",
        "rotation representations: continuous ones against the others",
        "Zhou et al. 2019",
        "12-20 min",
        ddp=True,
    ),
    "affine_images": Experiment(
        "lie.affine_images",
        "group convolutions against a plain network on deformed digits",
        "Mironenco and Forré 2024",
        "10-12 min",
        ("mnist", "affine_mnist"),
        ddp=True,
    ),
    "point_cloud_rotations": Experiment(
        "points.point_cloud_rotations",
        "rotation-invariant point clouds: trained upright, tested turned",
        "Zhang et al. 2024 (RISurConv), 2023 (PaRot)",
        "4-6 h",
        ("point_clouds",),
    ),
    "particle_motion": Experiment(
        "motion.particle_motion",
        "EqMotion on springs and charges, beside other networks",
        "Xu et al. 2023",
        "25-40 min",
        ddp=True,
    ),
    "pedestrian_motion": Experiment(
        "motion.pedestrian_motion",
        "EqMotion on ETH-UCY, one scene left out at a time",
        "Xu et al. 2023",
        "4-8 min",
        ("eth_ucy",),
        ddp=True,
    ),
    "graph_separation": Experiment(
        "graphs.graph_separation",
        "graph frames on graphs that message passing cannot tell apart",
        "Puny et al. 2022",
        "10-20 min",
        ("exp", "graph8c"),
        ddp=True,
    ),
    "subgraph_retrieval": Experiment(
        "graphs.subgraph_retrieval",
        "IsoNet++ on five sets of molecules, beside filter and exact solver",
        "Ramachandran et al. 2024",
        "50-70 min",
        ("subgraph_pairs",),
        ddp=True,
    ),
    "monoid_sets": Experiment(
        "graphs.monoid_sets",
        "learned monoids on functions of sets, at sizes beyond training",
        "Ong and Veličković 2022",
        "35-50 min",
        ddp=True,
    ),
    "monoid_graphs": Experiment(
        "graphs.monoid_graphs",
        "aggregations in message passing on six graph tasks",
        "Ong and Veličković 2022",
        "20-25 min",
        ddp=True,
    ),
    "traffic_virtual_nodes": Experiment(
        "graphs.traffic_virtual_nodes",
        "long-term traffic forecasts with and without virtual nodes",
        "Cao et al. 2025",
        "60-90 min",
        ("metr_la", "the_hague"),
    ),
}
DATASETS = {
    "physionet_mi": Dataset(
        "fetch_physionet_mi",
        "PhysioNet motor movement/imagery, 109 subjects",
        ("eeg/physionet_mi_S{:03d}.npz",),
    ),
    "mamem": Dataset(
        "fetch_mamem", "MAMEM SSVEP II, 11 subjects", ("eeg/mamem_ssvep_U{:03d}.npz",)
    ),
    "mnist": Dataset("fetch_mnist", "MNIST, 8000 images", ("images/mnist8k.npz",)),
    "affine_mnist": Dataset(
        "fetch_affine_mnist",
        "MNIST test images under affine maps (ours)",
        ("images/affine_mnist_test.npz",),
    ),
    "point_clouds": Dataset(
        "fetch_point_clouds",
        "Princeton Shape Benchmark, clouds of 1024 points",
        ("pointclouds/psb_train.npz", "pointclouds/psb_test.npz"),
        ({"split": "train"}, {"split": "test"}),
        download=False,
    ),
    "eth_ucy": Dataset(
        "fetch_eth_ucy", "ETH-UCY pedestrians, five scenes", ("eth_ucy/biwi_eth.txt",)
    ),
    "exp": Dataset(
        "fetch_exp",
        "600 pairs of graphs alike under color refinement",
        ("graph_separation/exp.npz",),
        download=False,
    ),
    "graph8c": Dataset(
        "fetch_graph8c",
        "all connected graphs with 8 nodes",
        ("graph_separation/graph8c.g6",),
    ),
    "subgraph_pairs": Dataset(
        "fetch_subgraph_pairs",
        "which molecules contain which fragments, five sets",
        tuple(f"subgraph_retrieval/{name}.npz" for name in _SUBGRAPH_FILES),
        tuple({"name": name} for name in _SUBGRAPH_FILES),
    ),
    "metr_la": Dataset(
        "fetch_metr_la",
        "METR-LA, one week of 207 highway sensors",
        ("traffic/metr_la_week.npz",),
    ),
    "the_hague": Dataset(
        "fetch_the_hague",
        "The Hague, one month of 123 lane sensors",
        ("traffic/denhaag_2019_11.npz",),
    ),
}
