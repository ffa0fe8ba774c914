from .mdm import GBWMDM as GBWMDM
from .tangent_space import GBWTangentSpace as GBWTangentSpace
