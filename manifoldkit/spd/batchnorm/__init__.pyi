from .domains import DomainBatchNorm as DomainBatchNorm
from .factory import make_batchnorm as make_batchnorm
from .gbw import BWBatchNorm as BWBatchNorm
from .gbw import GBWBatchNorm as GBWBatchNorm
from .peers import SPDBatchNorm as SPDBatchNorm
from .sync import convert_sync_batchnorm as convert_sync_batchnorm
