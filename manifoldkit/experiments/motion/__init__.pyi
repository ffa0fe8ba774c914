from . import particle_motion as particle_motion
from . import pedestrian_motion as pedestrian_motion
