from .cascade import SearchResult as SearchResult
from .corpus import GraphCorpus as GraphCorpus
from .filters import CountFilter as CountFilter
from .metrics import average_precision as average_precision
from .metrics import hits_at_k as hits_at_k
from .metrics import precision_at_k as precision_at_k
from .metrics import retrieval_scores as retrieval_scores
from .retriever import SubgraphRetriever as SubgraphRetriever
