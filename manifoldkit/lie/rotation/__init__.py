"""Rotation representations: vectors to rotation matrices and back.

Every decoder returns a rotation for every finite input, with finite derivatives, and
every function takes any leading batch dimensions, tensors or NumPy arrays. Matrices
act on column vectors; angles are radians; quaternions are scalar first unless
``order="xyzw"``; half precision is computed in float32.

References
----------
Zhou et al., "On the Continuity of Rotation Representations in Neural Networks",
CVPR 2019. Levinson et al., "An Analysis of SVD for Deep Rotation Estimation",
NeurIPS 2020.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
