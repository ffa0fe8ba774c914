from . import datasets as datasets
from . import equivariant as equivariant
from . import exceptions as exceptions
from . import graphs as graphs
from . import lie as lie
from . import linalg as linalg
from . import manifolds as manifolds
from . import optim as optim
from . import spd as spd
from . import statistics as statistics
from . import testing as testing

__version__: str
