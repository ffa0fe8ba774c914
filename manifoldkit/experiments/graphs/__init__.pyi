from . import graph_separation as graph_separation
from . import monoid_graphs as monoid_graphs
from . import monoid_sets as monoid_sets
from . import subgraph_retrieval as subgraph_retrieval
from . import traffic_virtual_nodes as traffic_virtual_nodes
