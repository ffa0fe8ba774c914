"""Valid arguments for the public functions of linalg."""

from function_cases.draws import gl, randn, spd_, sym

CASES = {
    "linalg.sqrtm": lambda b, n: {"x": spd_(b, n)},
    "linalg.invsqrtm": lambda b, n: {"x": spd_(b, n)},
    "linalg.logm": lambda b, n: {"x": spd_(b, n)},
    "linalg.expm": lambda b, n: {"x": sym(b, n)},
    "linalg.powm": lambda b, n: {"x": spd_(b, n), "power": 0.3},
    "linalg.eigh": lambda b, n: {"x": sym(b, n)},
    "linalg.symmetrize": lambda b, n: {"x": randn(*b, n, n)},
    "linalg.vech": lambda b, n: {"x": sym(b, n)},
    "linalg.unvech": lambda b, n: {"v": randn(*b, n * (n + 1) // 2)},
    "linalg.check_spd": lambda b, n: {"x": spd_(b, n)},
    "linalg.is_spd": lambda b, n: {"x": spd_(b, n)},
    "linalg.polar": lambda b, n: {"g": gl(b, n)},
    "linalg.procrustes": lambda b, n: {"a": randn(*b, 5, n), "b": randn(*b, 5, n)},
    "linalg.rigid_fit": lambda b, n: {
        "source": randn(*b, 5, n),
        "target": randn(*b, 5, n),
    },
    "linalg.sinkhorn": lambda b, n: {"log_alpha": randn(*b, n, n)},
    "linalg.solve_lyapunov": lambda b, n: {"a": spd_(b, n), "q": sym(b, n)},
}
ELSEWHERE = {
    "linalg.frechet_derivative",
}
STRICT = {
    "linalg.sqrtm": {"validate": True},
    "linalg.invsqrtm": {"validate": True},
    "linalg.logm": {"validate": True},
    "linalg.expm": {"validate": True},
    "linalg.powm": {"validate": True},
    "linalg.solve_lyapunov": {"validate": True},
}
NO_HALF = set()
DECIDES = {
    "linalg.check_spd",
    "linalg.eigh",
    "linalg.is_spd",
}
