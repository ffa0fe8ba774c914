from .classifier import PaRotClassifier as PaRotClassifier
from .poses import orientation as orientation
from .poses import relative_pose as relative_pose
from .poses import scale_pose as scale_pose
from .segmenter import PaRotSegmenter as PaRotSegmenter
