from .estimators import PointCloudClassifier as PointCloudClassifier
from .estimators import PointCloudSegmenter as PointCloudSegmenter
from .metrics import part_iou as part_iou
from .metrics import rotate_clouds as rotate_clouds
from .metrics import rotation_protocols as rotation_protocols
