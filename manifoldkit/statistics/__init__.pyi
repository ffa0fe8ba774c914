from .clustering import ManifoldKMeans as ManifoldKMeans
from .distributions import WrappedNormal as WrappedNormal
from .kernels import geodesic_kernel as geodesic_kernel
from .mean import FrechetMean as FrechetMean
from .region import Region as Region
from .regression import GeodesicRegression as GeodesicRegression
from .tangent_pca import TangentPCA as TangentPCA
