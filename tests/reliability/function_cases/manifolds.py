"""Valid arguments for the public functions of manifolds and optim."""

from function_cases.draws import randn, spd_, sym
from manifoldkit import manifolds

CASES = {
    "manifolds.as_parameter": lambda b, n: {
        "tensor": randn(*b, n, n),
        "manifold": manifolds.Stiefel(),
    },
    "manifolds.manifold_of": lambda b, n: {"parameter": randn(*b, n)},
    "manifolds.tangent_basis": lambda b, n: {
        "manifold": manifolds.SPD(),
        "x": spd_(b, n),
    },
    "manifolds.pairwise_distance": lambda b, n: {
        "manifold": manifolds.SPD(),
        "x": spd_((*b, 4), n),
        "y": spd_((*b, 2), n),
    },
    "manifolds.exp_log_volume": lambda b, n: {
        "manifold": manifolds.SPD(),
        "x": spd_(b, n),
        "u": sym(b, n),
    },
    "optim.karcher_mean": lambda b, n: {
        "manifold": manifolds.SPD(),
        "points": spd_((4, *b), n),
    },
}
ELSEWHERE = {
    "manifolds.attach",
    "manifolds.check_manifold",
    "manifolds.parametrize",
    "optim.build_optimizer",
    "optim.clip_riemannian_grad_norm_",
    "manifolds.karcher_mean",  # the same function
    "optim.karcher_average",
    "optim.to_pymanopt",
}
STRICT = {
    "manifolds.tangent_basis": {},
    "manifolds.pairwise_distance": {},
    "manifolds.exp_log_volume": {},
    "optim.karcher_mean": {},
}
NO_HALF = {
    "manifolds.tangent_basis",
    "manifolds.pairwise_distance",
    "manifolds.exp_log_volume",
    "optim.karcher_mean",
}
DECIDES = {
    "manifolds.as_parameter",
    "manifolds.manifold_of",
    "optim.karcher_mean",
}
