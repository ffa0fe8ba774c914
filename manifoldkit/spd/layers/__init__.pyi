from .bimap import BiMap as BiMap
from .filters import SpatioTemporalFilters as SpatioTemporalFilters
from .maps import LogEig as LogEig
from .maps import ReEig as ReEig
from .maps import SPDResidual as SPDResidual
from .pooling import CovariancePool as CovariancePool
from .pooling import SPDPool as SPDPool
