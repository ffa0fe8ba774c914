"""Subspaces, represented by orthonormal bases."""

from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg import polar
from manifoldkit.linalg.rotation_log import angle_over_sine
from manifoldkit.manifolds.stiefel.manifold import RETRACTIONS, OrthonormalColumns
from manifoldkit.manifolds.stiefel.maps import euclidean_exp

_RETRACTIONS = ("polar", "cholqr", "qr", "exp")


class Grassmann(OrthonormalColumns):
    r"""Grassmann manifold of p-dimensional subspaces of n-space.

    A point is any orthonormal basis x, of shape (..., n, p); bases of one subspace are
    the same point. Tangent vectors are horizontal, :math:`x'u = 0`, with metric
    :math:`\operatorname{tr} u'v`. The distance is the norm of the principal angles.

    Parameters
    ----------
    retraction : {"polar", "cholqr", "qr", "exp"}, default="polar"
        Step of the basis, as :class:`Stiefel` describes; as maps of subspaces the
        first three agree; only "polar" and "exp" keep the basis from turning, as
        momentum needs.

    Raises
    ------
    ValueError
        Unknown retraction.

    Notes
    -----
    ``logmap`` aligns the basis y with x by the Procrustes rotation and so needs
    principal angles below a right angle to be unique; ``expmap(x, logmap(x, y))`` is
    the aligned basis of the subspace of y.

    References
    ----------
    .. [1] T. Bendokat, R. Zimmermann, P.-A. Absil, "A Grassmann manifold handbook:
       basic geometry and computational aspects", Adv. Comput. Math. 50, 2024.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.eye(3)[:, :1], torch.eye(3)[:, 1:2]
    >>> Grassmann().dist(x, y)
    tensor(1.5708)
    """

    name = "Grassmann"

    def __init__(self, retraction: str = "polar"):
        super().__init__()
        self.retraction = check_choice(retraction, _RETRACTIONS, "retraction")

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Horizontal part ``(I - xx')u``."""
        return u - x @ (x.mT @ u)

    egrad2rgrad = proju

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Step by the retraction chosen."""
        if self.retraction == "exp":
            return self.expmap(x, u)
        return RETRACTIONS[self.retraction](x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        r"""Geodesic ``x V cos(S) V' + U sin(S) V'`` for ``u = U S V'``.

        Computed from the exponential of a (2p, 2p) block, smooth at repeated angles.
        """
        return euclidean_exp(x, self.proju(x, u))

    def align(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the basis of the subspace of y that is nearest to x."""
        return y @ polar(y.mT @ x).r

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent vector of length of the principal angles that points to y."""
        y = self.align(x, y)
        cosine = x.mT @ y
        return (y - x @ cosine) @ angle_over_sine((cosine + cosine.mT) / 2)
