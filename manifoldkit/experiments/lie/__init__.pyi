from . import affine_images as affine_images
from . import rotation_continuity as rotation_continuity
