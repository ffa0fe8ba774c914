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

from manifoldkit.lie.rotation.classic import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rotvec,
    quaternion_to_matrix,
    rotvec_to_matrix,
)
from manifoldkit.lie.rotation.codes import (
    Similarity,
    convert,
    decode,
    decode_similarity,
    dim,
    encode,
    encode_similarity,
)
from manifoldkit.lie.rotation.geometry import (
    from_scipy,
    geodesic_distance,
    left_jacobian,
    random_rotation,
    right_jacobian,
    slerp,
    to_scipy,
)
from manifoldkit.lie.rotation.vectors import (
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    rotation_5d_to_matrix,
    rotation_6d_to_matrix,
    special_procrustes,
)

__all__ = [
    "Similarity",
    "convert",
    "decode",
    "decode_similarity",
    "dim",
    "encode",
    "encode_similarity",
    "euler_to_matrix",
    "from_scipy",
    "geodesic_distance",
    "left_jacobian",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "matrix_to_rotation_5d",
    "matrix_to_rotation_6d",
    "matrix_to_rotvec",
    "quaternion_to_matrix",
    "random_rotation",
    "right_jacobian",
    "rotation_5d_to_matrix",
    "rotation_6d_to_matrix",
    "rotvec_to_matrix",
    "slerp",
    "special_procrustes",
    "to_scipy",
]
