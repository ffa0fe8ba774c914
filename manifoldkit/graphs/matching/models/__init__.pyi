from .isonet import GMNMatch as GMNMatch
from .isonet import IsoNet as IsoNet
from .isonetpp import IsoNetPP as IsoNetPP
from .losses import pairwise_ranking_loss as pairwise_ranking_loss
from .packed import PackedGraphs as PackedGraphs
