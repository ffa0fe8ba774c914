"""Data: ``load_*`` is on this machine, ``fetch_*`` downloads, ``make_*`` simulates.

Names load their module on first use; importing this package is instant.
"""

from manifoldkit._lazy import lazy_names

_EXPORTS = {
    "eeg": ("fetch_mamem", "fetch_physionet_mi", "load_eeg_demo"),
    "epochs": ("EEGEpochs",),
    "graph_separation": ("GraphSet", "fetch_exp", "fetch_graph8c"),
    "graph_tasks": ("GraphTasks", "make_graph_tasks"),
    "images": ("MatrixSet", "load_digits_covariances"),
    "motion": ("NBodyData", "ParticleData", "make_n_body", "simulate_particles"),
    "molecules": ("MoleculeWindows", "md17_windows"),
    "pedestrians": ("PedestrianWindows", "fetch_eth_ucy", "load_eth_ucy"),
    "mnist": ("ImageSet", "fetch_affine_mnist", "fetch_mnist", "make_affine_digits"),
    "meshes": ("Mesh", "read_off", "sample_mesh"),
    "princeton": ("ShapeSet", "fetch_point_clouds"),
    "shapes": ("PartSet", "load_modelnet", "load_scanobjectnn", "load_shapenet_part"),
    "points": ("PointClouds", "make_point_clouds"),
    "set_tasks": ("SetTask", "make_set_tasks"),
    "subgraphs": (
        "SubgraphPairs",
        "fetch_subgraph_pairs",
        "make_molecule_graphs",
        "make_subgraph_pairs",
    ),
    "simulation": ("MotorImageryTruth", "make_motor_imagery_eeg"),
    "traffic": (
        "TrafficData",
        "fetch_metr_la",
        "fetch_the_hague",
        "regularize_series",
    ),
    "traffic_files": ("load_traffic",),
    "traffic_simulation": ("TrafficTruth", "make_traffic"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
