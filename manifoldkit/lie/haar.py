r"""Invariant measures of matrix groups, and samples weighted for them.

Stretches. With :math:`S = e^X` symmetric positive definite the measure that is
invariant under :math:`S \to h S h'` is :math:`w(X)\, dX`,
:math:`w = \prod_{i<j} \mathrm{sinhc}\,\tfrac{t_i - t_j}{2}`, t the eigenvalues of X
(volume dX of orthonormal coordinates). GL+(n) has with :math:`g = S^{1/2} R` the Haar
measure :math:`w(X)\, dX\, dR`, SL(n) the same on trace-free X.

A sample is a function of a point of the unit cube, so independent, stratified and
quasi-random samples differ in these points only. Proposals of stretches, X in
orthonormal coordinates :math:`v` (``proposal=`` of GLPlus, SL, SPDSpace):

``"lognormal"``
    v normal with standard deviation ``std`` (a number or one each; default the root of
    0.1, the variance of Mironenco and Forre) or covariance ``cov``.
``"uniform_box"``
    v uniform in ``[-bound, bound]``; default 1.
``"wishart"``
    S a Wishart matrix of mean I with ``df`` degrees of freedom, an integer >= n;
    default n + 2. On SL(n) divided by :math:`\det^{1/n}`.

Proposals of rotations (``proposal=`` of SO, ``rotation=`` of GLPlus and SL):

``"haar"``
    Uniform.
``"equidistant"``
    n = 2: angles :math:`2 \pi j / N`.
``"super_fibonacci"``
    n = 3: an even spiral of unit quaternions (Alexa, CVPR 2022).
``"loguniform"``
    Coordinates (angle, rotation vector, skew entries) uniform in
    ``[-rotation_bound, rotation_bound]``, which is at most
    :math:`\pi / \sqrt{\dim}`, the default; weighted to the uniform distribution.
"""

import math
from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.lie.basis import skew_basis
from manifoldkit.lie.closed_forms import two_by_two
from manifoldkit.lie.closed_forms.so3 import unit_quaternion_matrix
from manifoldkit.lie.decompositions import sym_log
from manifoldkit.linalg.checks import check_square, compute_dtype
from manifoldkit.linalg.draws import generator_option
from manifoldkit.linalg.elementary import log_sinhc as log_sinhc
from manifoldkit.linalg.elementary import log_sinhc_of_square
from manifoldkit.linalg.qr import qr_factor

WEIGHTINGS = ("haar", "none", "clipped")
POINTS = ("random", "stratified", "sobol")
STRETCHES = ("lognormal", "uniform_box", "wishart")
ROTATIONS = ("haar", "equidistant", "super_fibonacci", "loguniform")


class Options:
    """The settings of one call of ``sample``; tells which of them nobody took."""

    def __init__(
        self,
        proposal: str | None,
        generator: torch.Generator | None,
        points: str,
        antithetic: bool,
        extra: dict[str, Any],
        owner: str,
    ):
        self.proposal, self.generator = proposal, generator
        self.points = check_choice(points, POINTS, "points")
        self.antithetic, self.owner = antithetic, owner
        self.rotation, self.df = "haar", 0
        self._extra = extra
        self.device = torch.device("cpu") if generator is None else generator.device

    def draw_cube(self, n: int, dim: int) -> None:
        """Draw the points that one call of ``sample`` is made from.

        All at once: a row makes a sample, so that splits agree, and quasi-random
        columns do not repeat.
        """
        self._cube = unit_points(n, dim, self)

    def columns(self, dim: int) -> Tensor:
        """Return the next ``dim`` coordinates of the points."""
        out, self._cube = self._cube[:, :dim], self._cube[:, dim:]
        return out

    def take(self, name: str, default: Any) -> Any:
        """Return an option and mark it as known."""
        value = self._extra.pop(name, None)
        return default if value is None else value

    def positive(self, name: str, default: float) -> float:
        """Return an option that has to be a positive number."""
        return check_positive(self.take(name, default), name)

    def finish(self) -> None:
        """Raise if an option was given that the proposal does not have."""
        if self._extra:
            raise ValueError(
                f"{', '.join(sorted(self._extra))}: not an option of "
                f"{self.owner}.sample with proposal={self.proposal!r}"
            )


def check_sample_count(n: int, antithetic: bool = False) -> None:
    """Raise unless ``n`` is a number of samples."""
    if check_count(n, "n", 0) % 2 and antithetic:
        raise ValueError(f"n: antithetic samples come in pairs, found {n}")


def weigh(log_weight: Tensor, weighting: str, self_normalise: bool) -> Tensor:
    """Apply the options ``weighting`` and ``self_normalise`` of ``sample``."""
    n = log_weight.shape[0]
    if n == 0:
        return log_weight
    if weighting == "none":
        log_weight = torch.zeros_like(log_weight)
    elif weighting == "clipped":
        mean = torch.logsumexp(log_weight, 0) - math.log(n)
        log_weight = torch.minimum(log_weight, mean + math.log(n) / 2)
    return log_weight - torch.logsumexp(log_weight, 0) if self_normalise else log_weight


# -- densities


def stretch_log_density(x: Tensor) -> Tensor:
    r"""Return :math:`\log w(X) = \sum_{i<j} \log\mathrm{sinhc}((t_i - t_j)/2)`.

    Second derivatives need distinct eigenvalues for n >= 3.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices X = log S.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> stretch_log_density(torch.diag(torch.tensor([1.0, -1.0])))
    tensor(0.1614)
    """
    check_square(x, "x")
    dtype, x = x.dtype, x.to(compute_dtype(x.dtype))
    if x.shape[-1] == 2:
        delta = (x[..., 0, 0] - x[..., 1, 1]) / 2
        b = (x[..., 0, 1] + x[..., 1, 0]) / 2
        return log_sinhc_of_square(delta * delta + b * b).to(dtype)
    try:
        t = torch.linalg.eigvalsh((x + x.mT) / 2)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"x: expected finite matrices ({error})") from None
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], 1, device=x.device)
    return log_sinhc((t[..., i] - t[..., j]) / 2).sum(-1).to(dtype)


def _log_sinc(x: Tensor) -> Tensor:
    return torch.sinc(x / math.pi).abs().log()


def rotation_log_density(a: Tensor) -> Tensor:
    r"""Log density of Haar measure of SO(n) in exponential coordinates, 0 at a = 0.

    :math:`2 \sum \log|\mathrm{sinc}(\rho/2)|` over the positive roots
    :math:`\rho = \theta_j \pm \theta_k`, and :math:`\theta_j` for odd n.

    Parameters
    ----------
    a : Tensor, shape (..., n, n)
        Skew matrices with rotation angles :math:`\theta_j`.

    Returns
    -------
    Tensor, shape (...)
    """
    n = check_square(a, "a").shape[-1]
    dtype, a = a.dtype, a.to(compute_dtype(a.dtype))
    return _rotation_log_density(a, n).to(dtype)


def _rotation_log_density(a: Tensor, n: int) -> Tensor:
    if n == 2:
        return 0 * a[..., 1, 0]
    tiny = torch.finfo(a.dtype).tiny
    if n == 3:
        square = (a * a).sum((-2, -1)) / 2
        return 2 * _log_sinc(square.clamp_min(tiny).sqrt() / 2)
    squares = torch.linalg.eigvalsh(a.mT @ a)  # every angle twice, and 0 for odd n
    theta = squares[..., n % 2 :: 2].clamp_min(tiny).sqrt()
    j, k = torch.triu_indices(theta.shape[-1], theta.shape[-1], 1, device=a.device)
    total = _log_sinc((theta[..., j] - theta[..., k]) / 2).sum(-1)
    total = total + _log_sinc((theta[..., j] + theta[..., k]) / 2).sum(-1)
    if n % 2:
        total = total + _log_sinc(theta / 2).sum(-1)
    return 2 * total


def rotation_log_volume(n: int) -> float:
    r"""Log volume of SO(n) where the skew entries below the diagonal are orthonormal.

    Examples
    --------
    >>> round(math.exp(rotation_log_volume(2)) / math.pi, 6)
    2.0
    """
    sphere = (
        math.log(2) + k / 2 * math.log(math.pi) - math.lgamma(k / 2)
        for k in range(2, n + 1)
    )
    return sum(sphere)


def polar_haar_log_constant(n: int) -> float:
    r"""Return :math:`\log c_n`, :math:`c_n = \pi^{n^2/2} / (2\, \Gamma_n(n/2))`.

    With the volume dX of the entries on and above the diagonal and dR of total one,
    :math:`|\det g|^{-n} \prod dg_{ij} = c_n\, w(X)\, dX\, dR`.

    Examples
    --------
    >>> round(math.exp(polar_haar_log_constant(2)), 4)
    1.5708
    """
    multivariate = n * (n - 1) / 4 * math.log(math.pi)
    multivariate += sum(math.lgamma((n - i) / 2) for i in range(n))
    return n * n / 2 * math.log(math.pi) - math.log(2) - multivariate


# -- points of the unit cube


def unit_points(n: int, dim: int, options: Options) -> Tensor:
    """Points strictly inside the unit cube, shape ``(n, dim)``, float64."""
    where = {"dtype": torch.float64, "device": options.device}
    source: dict[str, Any] = {**where, **generator_option(options.generator)}
    if options.points == "sobol":
        limit = torch.quasirandom.SobolEngine.MAXDIM
        if dim > limit:
            raise ValueError(f'points="sobol": at most {limit} dimensions, found {dim}')
        engine = torch.quasirandom.SobolEngine(dim)
        u = engine.draw(n, dtype=torch.float64).to(options.device)
        u = (u + torch.rand(dim, **source)) % 1
    else:
        u = torch.rand(n, dim, **source)
        if options.points == "stratified":
            order = torch.rand(n, dim, **source).argsort(0)
            u = (u + order) / max(n, 1)
    half = 2.0**-54
    return u.clamp(half, 1 - half)


def _normal(u: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


def normal_vectors(u: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Independent normal numbers and their log density."""
    z, dim = _normal(u), u.shape[-1]
    log_density = -(z * z).sum(-1) / 2 - dim / 2 * math.log(2 * math.pi)
    return std * z, log_density - dim * math.log(std)


# -- stretches


def stretch_cube_dim(dim: int, size: int, options: Options) -> int:
    """Number of uniforms that a stretch takes; checks the proposal's name.

    The name defaults to ``"lognormal"``.
    """
    options.proposal = options.proposal or "lognormal"
    check_choice(options.proposal, STRETCHES, "proposal")
    if options.proposal != "wishart":
        return dim
    if options.antithetic:
        raise ValueError("antithetic: not available for the wishart proposal")
    options.df = check_count(options.take("df", size + 2), "df", size)
    return size * options.df


def stretch_points(dim: int, size: int, options: Options) -> Tensor:
    """Unit points for the stretches, mirrored in pairs if antithetic."""
    if options.proposal == "wishart":
        return options.columns(size * options.df)
    u = options.columns(dim)
    if options.antithetic:
        u = torch.stack([u[::2], 1 - u[::2]], 1).flatten(0, 1)
    return u


def vector_proposal(u: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Coordinates v and their log density for ``lognormal`` and ``uniform_box``."""
    dim = u.shape[-1]
    if options.proposal == "uniform_box":
        bound = options.positive("bound", 1.0)
        log_density = u.new_full(u.shape[:1], -dim * math.log(2 * bound))
        return bound * (2 * u - 1), log_density
    z = _normal(u)
    std, cov = options.take("std", None), options.take("cov", None)
    log_density = -(z * z).sum(-1) / 2 - dim / 2 * math.log(2 * math.pi)
    if cov is not None:
        if std is not None:
            raise ValueError("std, cov: expected one of them, found both")
        cov = torch.as_tensor(cov, dtype=u.dtype, device=u.device)
        if cov.shape != (dim, dim):
            raise ValueError(f"cov: expected shape {(dim, dim)}, found {cov.shape}")
        factor, info = torch.linalg.cholesky_ex(cov)
        if int(info):
            raise ValueError("cov: expected a positive definite matrix")
        return z @ factor.mT, log_density - factor.diagonal().log().sum()
    if std is None or isinstance(std, (int, float)):
        std = 0.1**0.5 if std is None else std
        check_positive(std, "std")
        return z * std, log_density - dim * math.log(std)
    std = torch.as_tensor(std, dtype=u.dtype, device=u.device)
    if std.shape != (dim,) or not bool(((std > 0) & std.isfinite()).all()):
        raise ValueError(f"std: expected {dim} positive numbers, found {std}")
    return z * std, log_density - std.log().sum()


def wishart_proposal(u: Tensor, n: int, unimodular: bool) -> tuple[Tensor, Tensor]:
    """Draw X = log S of a Wishart matrix S; return it with log (invariant / density).

    The density is with respect to the volume of orthonormal coordinates of X, as for
    the other proposals.
    """
    df = u.shape[-1] // n
    z = _normal(u).unflatten(-1, (n, df))
    s = z @ z.mT / df
    log_det = torch.linalg.slogdet(s)[1]
    constant = n * (n - 1) / 4 * math.log(math.pi) + sum(
        math.lgamma((df - i) / 2) for i in range(n)
    )
    # measure dS / det^((n+1)/2) over density; dv = 2^(n(n-1)/4) dX
    orthonormal = n * (n - 1) / 4 * math.log(2)
    x = sym_log(s)
    if not unimodular:
        trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)
        ratio = constant - df / 2 * (log_det + n * math.log(df / 2)) + df / 2 * trace
        return x, ratio + orthonormal
    mean = x.diagonal(dim1=-2, dim2=-1).mean(-1)
    x = x - mean[..., None, None] * torch.eye(n, dtype=x.dtype, device=x.device)
    trace = (s.diagonal(dim1=-2, dim2=-1).sum(-1).log() - mean).exp()
    # the density of the unimodular part: the Wishart density integrated over scales
    ratio = (
        constant - math.log(n) / 2 - math.lgamma(n * df / 2) + n * df / 2 * trace.log()
    )
    return x, ratio + orthonormal


def stretch_proposal(basis: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Draw X = log S in a basis (dim, k, k), with log (invariant / density)."""
    dim, size = basis.shape[:2]
    u = stretch_points(dim, size, options)
    if options.proposal == "wishart":
        return wishart_proposal(u, size, dim < size * (size + 1) // 2)
    v, log_density = vector_proposal(u, options)
    x = (v @ basis.flatten(-2)).unflatten(-1, (size, size))
    return x, stretch_log_density(x) - log_density


# -- rotations


def rotation_points_dim(n: int) -> int:
    """Number of uniforms that a random rotation takes."""
    return {2: 1, 3: 3}.get(n, n * n)


def haar_rotations(u: Tensor, n: int) -> Tensor:
    """Uniform rotations SO(n) from points of the unit cube.

    An angle for n = 2, a quaternion for n = 3 (Shoemake, Graphics Gems III, 1992), else
    the sign-fixed QR of a Gaussian matrix, its last column flipped where det = -1.

    Parameters
    ----------
    u : Tensor, shape (..., k)
        Points; k = 1 for n = 2, 3 for n = 3, n * n otherwise.
    n : int
        Size of the rotations.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> haar_rotations(torch.tensor([0.625]), 2)
    tensor([[ 0.7071, -0.7071],
            [ 0.7071,  0.7071]])
    """
    if n == 2:
        return two_by_two.rotation(math.pi * (2 * u[..., 0] - 1))
    if n == 3:
        first, second = (1 - u[..., 0]).sqrt(), u[..., 0].sqrt()
        a, b = 2 * math.pi * u[..., 1], 2 * math.pi * u[..., 2]
        parts = [second * b.cos(), first * a.sin(), first * a.cos(), second * b.sin()]
        return unit_quaternion_matrix(parts)
    q = qr_factor(_normal(u).unflatten(-1, (n, n)))
    last = q[..., -1:] * torch.linalg.det(q).sign()[..., None, None]
    return torch.cat([q[..., :-1], last], -1)


def super_fibonacci(n: int, device: torch.device | None = None) -> Tensor:
    """Evenly spread rotations of space, ``(n, 3, 3)`` in float64.

    References
    ----------
    M. Alexa, "Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3)", CVPR
    2022.

    Examples
    --------
    >>> super_fibonacci(1000).mean(0).abs().max() < 0.001
    tensor(True)
    """
    phi, psi = math.sqrt(2), 1.533751168755204288118041
    s = torch.arange(n, dtype=torch.float64, device=device) + 0.5
    first, second = (s / n).sqrt(), (1 - s / n).sqrt()
    a, b = 2 * math.pi * s / phi, 2 * math.pi * s / psi
    parts = [first * a.sin(), first * a.cos(), second * b.sin(), second * b.cos()]
    return unit_quaternion_matrix(parts)


def rotation_cube_dim(size: int, name: str) -> int:
    """Number of uniforms that a proposal of rotations takes; checks its name."""
    check_choice(name, ROTATIONS, "rotation")
    needed = {"equidistant": 2, "super_fibonacci": 3}.get(name, size)
    if size != needed:
        raise ValueError(f"{name}: expected rotations of size {needed}, found {size}")
    if name in ("equidistant", "super_fibonacci"):
        return 0
    return rotation_points_dim(size) if name == "haar" else size * (size - 1) // 2


def rotation_proposal(
    n: int, size: int, name: str, options: Options
) -> tuple[Tensor, Tensor]:
    """Draw ``n`` rotations; return them with log (uniform / proposal density)."""
    zero = torch.zeros(n, dtype=torch.float64, device=options.device)
    u = options.columns(rotation_cube_dim(size, name))
    if name == "haar":
        return haar_rotations(u, size), zero
    if name == "super_fibonacci":
        return super_fibonacci(n, options.device), zero
    if name == "equidistant":
        j = torch.arange(n, dtype=torch.float64, device=options.device)
        return two_by_two.rotation(2 * math.pi * j / max(n, 1)), zero
    return _loguniform(u, size, options)


def _loguniform(u: Tensor, size: int, options: Options) -> tuple[Tensor, Tensor]:
    basis = torch.stack(skew_basis(size)).to(u.device) * 2**0.5
    dim = len(basis)
    # beyond, the exponential covers some rotations twice
    limit = math.pi / math.sqrt(dim)
    bound = options.positive("rotation_bound", limit)
    if bound > limit * (1 + 1e-12):
        raise ValueError(
            f"rotation_bound: expected at most pi / sqrt({dim}), found {bound}"
        )
    w = bound * (2 * u - 1)
    a = (w @ basis.flatten(-2)).unflatten(-1, (size, size))
    log_weight = rotation_log_density(a) - rotation_log_volume(size)
    r = two_by_two.rotation(w[:, 0]) if size == 2 else torch.linalg.matrix_exp(a)
    return r, log_weight + dim * math.log(2 * bound)
