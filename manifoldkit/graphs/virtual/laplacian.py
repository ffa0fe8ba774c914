"""The scaled Laplacian of a fixed road graph, for graph convolutions as published."""

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from manifoldkit.graphs.virtual.adjacency import SemiAdaptiveAdjacency
from manifoldkit.graphs.virtual.propagation import (
    DensePropagation,
    Road,
    sparse_product,
)

DENSE = 1000  # up to so many nodes all eigenvalues are computed


class ScaledLaplacian(nn.Module):
    r"""Product with :math:`2 L / \lambda_{\max} - I` over the nodes' axis.

    :math:`L = I - D^{-1/2} A D^{-1/2}` of the undirected graph without self loops, with
    :math:`A_{ij} = \max(a_{ij}, a_{ji})`. Its eigenvalues lie in [-1, 1], where
    Chebyshev polynomials are orthogonal. Not defined for learned, directed links.

    Parameters
    ----------
    adjacency : SemiAdaptiveAdjacency
        A road graph without virtual nodes.

    Raises
    ------
    ValueError
        There are virtual nodes, or the roads are learned.

    References
    ----------
    .. [1] M. Defferrard, X. Bresson, P. Vandergheynst, "Convolutional neural networks
       on graphs with fast localized spectral filtering", NeurIPS 2016.

    Examples
    --------
    >>> road = SemiAdaptiveAdjacency(torch.ones(2, 2), mode="distance")
    >>> ScaledLaplacian(road)(torch.eye(2))
    tensor([[ 0., -1.],
            [-1.,  0.]])
    """

    def __init__(self, adjacency: SemiAdaptiveAdjacency):
        super().__init__()
        if adjacency.num_virtual or adjacency.mode == "adaptive":
            raise ValueError(
                "laplacian: needs a fixed graph without virtual nodes, found "
                f"mode={adjacency.mode!r} with {adjacency.num_virtual} virtual nodes"
            )
        road, _ = adjacency._road()
        dtype = adjacency._road_weight.dtype
        self.diagonal, links = _scaled(_symmetric(road))
        self.n = links.shape[0]
        self.is_sparse = adjacency.is_sparse
        if not self.is_sparse:
            matrix = links.toarray() + self.diagonal * np.eye(self.n)
            self.register_buffer("matrix", torch.as_tensor(matrix, dtype=dtype))
            return
        coo = links.tocoo()
        ends = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
        self.register_buffer("ends", ends)
        self.register_buffer("weight", torch.as_tensor(coo.data, dtype=dtype))

    matrix: Tensor
    ends: Tensor
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product, shape of ``x``: (..., n, channels)."""
        if not self.is_sparse:
            return DensePropagation(self.matrix)(x)
        road = Road(self.ends, self.weight, self.n)  # its own transpose
        front = x.movedim(-2, 0)
        out = sparse_product(front.flatten(1), road, road)
        return out.view(front.shape).movedim(0, -2) + self.diagonal * x


def _symmetric(road: Tensor | Road) -> csr_array:
    """Return the undirected graph without self loops."""
    if isinstance(road, Tensor):
        a = csr_array(road.detach().cpu().double().numpy())
    else:
        ends, weight = road.ends.cpu().numpy(), road.weight.cpu().double().numpy()
        a = csr_array(coo_array((weight, (ends[0], ends[1])), shape=(road.n, road.n)))
    a = a.maximum(a.T)
    a.setdiag(0)
    a.eliminate_zeros()
    return csr_array(a)


def _scaled(a: csr_array) -> tuple[float, csr_array]:
    """Return diagonal and links of the scaled Laplacian."""
    n, degree = a.shape[0], np.asarray(a.sum(1)).ravel()
    root = np.where(degree > 0, degree, np.inf) ** -0.5
    links = a.multiply(root[:, None]).multiply(root[None]).tocsr()
    if n <= DENSE:
        smallest = float(np.linalg.eigvalsh(links.toarray())[0])
    else:
        start = np.ones(n)  # the default would be random
        smallest = float(eigsh(links, 1, which="SA", v0=start, tol=1e-6)[0][0])
    largest = 1 - smallest
    return 2 / largest - 1, csr_array(-2 / largest * links)
