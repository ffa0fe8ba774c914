from .barycenter import gbw_mean as gbw_mean
from .metric import gbw_distance as gbw_distance
from .metric import gbw_exp as gbw_exp
from .metric import gbw_geodesic as gbw_geodesic
from .metric import gbw_log as gbw_log
