"""Valid arguments for the public functions of manifolds and optim."""

from function_cases.draws import randn, spd_
from manifoldkit import manifolds

CASES = {
    "manifolds.as_parameter": lambda b, n: {
        "tensor": randn(*b, n, n),
        "manifold": manifolds.Stiefel(),
    },
    "manifolds.manifold_of": lambda b, n: {"parameter": randn(*b, n)},
    "optim.karcher_mean": lambda b, n: {
        "manifold": manifolds.SPD(),
        "points": spd_((4, *b), n),
    },
}
ELSEWHERE = {
    "manifolds.attach",
    "manifolds.check_manifold",
    "optim.build_optimizer",
    "optim.clip_riemannian_grad_norm_",
    "optim.karcher_average",
    "optim.to_pymanopt",
}
STRICT = {
    "optim.karcher_mean": {},
}
NO_HALF = {
    "optim.karcher_mean",
}
DECIDES = {
    "manifolds.as_parameter",
    "manifolds.manifold_of",
    "optim.karcher_mean",
}
