from . import point_cloud_rotations as point_cloud_rotations
