"""Adam and AdamW on manifolds."""

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit.optim.base import RiemannianOptimizer
from manifoldkit.optim.options import CommonOptions


class RiemannianAdam(RiemannianOptimizer):
    r"""Adam on manifolds, stepping equal parameters as one batch.

    With Riemannian gradient g, retraction R and transport T,

    .. math::

        m_t &= \beta_1 T(m_{t-1}) + (1 - \beta_1) g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) \langle g_t, g_t \rangle_{x_t}, \\
        x_{t+1} &= R_{x_t}\bigl(-\eta\, \hat m_t / (\sqrt{\hat v_t} + \epsilon)\bigr),

    hats denoting bias correction. The second moment is one number for each point
    (Bécigneul and Ganea, 2019), so that a step has a length of about :math:`\eta` for
    the whole matrix: learning rates are 1e-2 to 1e-1, not 1e-3. Euclidean parameters go
    through :class:`torch.optim.Adam`.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; those with a manifold
        (``geoopt.ManifoldParameter``, :func:`manifoldkit.manifolds.attach`) are stepped
        on it.
    lr : float or Tensor, default=1e-3
        Learning rate :math:`\eta`.
    betas : tuple of float, default=(0.9, 0.999)
        Decay of the moments.
    eps : float, default=1e-8
        Added to the root of the second moment.
    weight_decay : float, default=0
        Pull towards the origin of the manifold (identity, ones, zero); compact
        manifolds have none.
    amsgrad : bool, default=False
        Divide by the largest second moment so far.
    decay_mode : {"l2", "decoupled", "none"}
        ``"l2"`` adds the gradient of half the squared geodesic distance to the origin,
        ``"decoupled"`` moves along that geodesic by the fraction lr * weight_decay
        before the step.
    moment : {"point", "coordinate", "factored"}
        Second moment per point; per entry of the coordinates (the frame's for SPD, SO,
        GL+ and SL, ambient ones otherwise); or per row and per column of a matrix,
        whose product stands for the entries (Shazeer and Stern, 2018; points that are
        not matrices have one per entry). The direction of the last two is projected
        back to tangent vectors.
    maximize : bool, default=False
        Ascend.
    foreach : bool, optional
        False steps every manifold parameter on its own; otherwise parameters of equal
        manifold and shape are one batch. For Euclidean parameters as in torch.
    fused, capturable : bool
        Options of torch for the Euclidean parameters; steps on manifolds never
        synchronize.
    stabilize : int, optional
        Project points and momentum every so many steps.
    retraction : str, optional
        ``"exp"`` for geodesics, or the name of another retraction of the manifold.
    transport : {"auto", "project", "none"}
        How momentum follows: the manifold's own way, by projection, or not at all.
    nonfinite : {"propagate", "skip", "raise"}
        What a NaN or infinite gradient does: spoils its own point only, leaves its
        point and state untouched, or raises before anything moves.
    grad_clip : float, optional
        Largest Riemannian length of the whole gradient, without the points and flat
        parameters where it is not finite; ``.grad`` is not changed.
    views : bool, default=True
        Make the parameters of a batch views of one tensor at the first step, which
        saves copying them in every step. A parameter whose memory somebody else sees
        is copied all the same. Saving one such parameter alone saves the whole tensor.
    master_points : bool, default=False
        Keep float32 points of float16 and bfloat16 parameters in the state, so that
        steps below the parameter's precision add up.

    Raises
    ------
    TypeError
        Unknown option or integer parameters.
    ValueError
        An option out of range, or a parameter that is not on its manifold.

    References
    ----------
    G. Bécigneul and O.-E. Ganea, Riemannian adaptive optimization methods, ICLR 2019;
    N. Shazeer and M. Stern, Adafactor, ICML 2018.

    Examples
    --------
    >>> import geoopt
    >>> x = geoopt.ManifoldParameter(torch.tensor([0.6, 0.8]), manifold=geoopt.Sphere())
    >>> optimizer = RiemannianAdam([x], lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     x[1].backward()
    ...     optimizer.step()
    >>> bool(x[1] < -0.99)
    True
    """

    _engine_class = torch.optim.Adam
    _engine_names = ("betas", "eps", "amsgrad", "capturable")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        moment: str = "point",
        **options: Unpack[CommonOptions],
    ):
        own = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "moment": moment,
        }
        super().__init__(params, own, options)

    def _direction(self, group, job):
        geometry, gradient = job.geometry, job.gradient
        beta1, beta2 = group["betas"]
        job.batch.advance()
        steps = job.batch.steps()
        name, m = self._momentum(job, "exp_avg")
        # not lerp_, which takes several times as long on the CPU
        m.mul_(beta1).add_(gradient, alpha=1 - beta1)
        if isinstance(steps, float) and group["moment"] == "point":
            rate = self._single_rate(group, job, steps)
            if rate is not None:
                return m * rate, name, m
        v = self._second_moment(group, job)
        scale = (v / _bias_correction(beta2, steps)).sqrt_().add_(group["eps"])
        d = m * (-group["lr"] / (scale.mul_(_bias_correction(beta1, steps))))
        if group["moment"] != "point":
            d = geometry.project(job.x, job.frame, d)
        return d, name, m

    def _single_rate(self, group, job, steps: float):
        """Return ``-lr`` over the scale for a single point, from plain numbers.

        Arithmetic on tensors of one number is half the time of such a step.
        """
        square = job.geometry.square(job.x, job.frame, job.gradient)
        if square.numel() != 1 or group["amsgrad"]:
            return None
        beta1, beta2 = group["betas"]
        v = job.batch.read("exp_avg_sq", square.shape[1:])
        value = beta2 * float(v) + (1 - beta2) * float(square)
        v.fill_(value)
        scale = math.sqrt(value / _bias_correction(beta2, steps)) + group["eps"]
        scale *= _bias_correction(beta1, steps)
        return -group["lr"] / scale if scale else -math.inf

    def _second_moment(self, group, job):
        """Average the squared gradient into the state; return it for each entry."""
        gradient = job.gradient
        if group["moment"] == "point":
            square = job.geometry.square(job.x, job.frame, gradient)
        else:
            square = gradient * gradient
        if group["moment"] == "factored" and gradient.ndim == 3:
            # v_ij = r_i c_j / mean(r) keeps both sums
            rows = _average(group, job, "exp_avg_sq_row", square.mean(2, keepdim=True))
            columns = _average(
                group, job, "exp_avg_sq_col", square.mean(1, keepdim=True)
            )
            total = rows.mean(1, keepdim=True)
            return rows * (columns / torch.where(total == 0, 1.0, total))
        v = _average(group, job, "exp_avg_sq", square)
        if group["amsgrad"]:
            largest = job.batch.read("max_exp_avg_sq", square.shape[1:])
            v = torch.maximum(largest, v, out=largest)
            job.batch.write("max_exp_avg_sq", v)
        return v


def _average(group, job, name: str, square: Tensor) -> Tensor:
    """Move the running average ``name`` towards ``square``."""
    beta2 = group["betas"][1]
    v = job.batch.read(name, square.shape[1:])
    v.mul_(beta2).add_(square, alpha=1 - beta2)
    job.batch.write(name, v)
    return v


def _bias_correction(beta: float, steps: Tensor | float):
    """1 - beta^steps without the cancellation of the plain formula in float32."""
    if isinstance(steps, float):
        return 1 - beta**steps
    if beta == 0:
        return torch.ones_like(steps)
    return torch.expm1(steps * math.log(beta)).neg_()


class RiemannianAdamW(RiemannianAdam):
    r"""Adam on manifolds with decoupled weight decay.

    :class:`RiemannianAdam` with ``decay_mode="decoupled"``: before the step a point
    moves along the geodesic to the origin of its manifold by the fraction
    ``lr * weight_decay`` (for Euclidean parameters ``x * (1 - lr * weight_decay)``,
    exactly :class:`torch.optim.AdamW`). The default ``weight_decay`` is 0.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, ...
        See :class:`RiemannianAdam`.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> w.grad = torch.zeros(2)
    >>> RiemannianAdamW([w], lr=0.1, weight_decay=1.0).step()
    >>> w.data
    tensor([0.9000, 0.9000])
    """

    _default_decay_mode = "decoupled"
