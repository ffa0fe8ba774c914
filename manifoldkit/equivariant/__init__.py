"""Networks that respect rotations: frames, motion forecasting, point clouds."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {
    "eqmotion": ("EqMotion", "EqMotionOutput", "neighbor_graph"),
    "forecaster": ("MotionForecaster",),
    "frame_models": ("FrameGNN", "FramePointNet", "LocalFrames", "PointNetBackbone"),
    "frames": ("Frame", "FrameAveraging", "RadialAxes", "pair_frame", "pca_frame"),
    "graph_frames": ("GraphFrame", "GraphFrameAveraging", "graph_frame"),
    "axes": ("estimate_axes",),
    "parot": ("PaRotClassifier",),
    "patch_poses": ("orientation", "relative_pose", "scale_pose"),
    "parot_segmenter": ("PaRotSegmenter",),
    "point_clouds": ("PointCloudClassifier", "PointCloudSegmenter"),
    "point_metrics": ("part_iou", "rotate_clouds", "rotation_protocols"),
    "risurconv": ("RISurConvClassifier", "RISurConvLayer"),
    "risurconv_segmenter": ("RISurConvSegmenter", "SurfacePropagation"),
    "local_surfaces": ("SurfaceFeatures", "surface_features", "surface_order"),
    "surface_graph": ("SurfaceGraph", "SurfaceLevel"),
    "motion_metrics": ("ade", "edge_accuracy", "fde", "min_ade", "min_fde"),
}
_MODULES: tuple[str, ...] = ("neighbors",)

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS, _MODULES)
