"""The checker passes what is equivariant and catches what is not."""
# ruff: noqa: E731, E501, PT018

import time
from typing import NamedTuple

import pytest
import torch
from torch import nn

from manifoldkit.equivariant import EqMotion
from manifoldkit.testing import assert_equivariant, check_equivariance, transform
from manifoldkit.testing.groups import Element, random_orthogonal


@pytest.fixture
def points():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, 3, generator=g, dtype=torch.float64)


def centered(x):
    return x - x.mean(1, keepdim=True)


def stretched(x):
    """Vectors of every length, multiplied by an invariant: E(3) x S_n."""
    z = centered(x)
    return z * torch.tanh(z.norm(dim=-1, keepdim=True))


# --- what must pass -----------------------------------------------------------


@pytest.mark.parametrize(
    "group", ["E(3)", "SE(3)", "O(d)", "SO(3)", "T(3)", "S(n)", "S(n) x E(3)"]
)
def test_equivariant_function_passes(points, group):
    report = assert_equivariant(stretched, points, "position", "vector", group)
    assert report.passed and report.verdict == "PASS"
    assert report.worst.excess <= 1


def test_every_class_has_a_row(points):
    report = check_equivariance(
        stretched, points, "position", "vector", "S(n) x E(3)", n=2
    )
    classes = {row.element for row in report.rows}
    assert classes >= {
        "identity", "small angle", "generic", "rotation 90", "rotation 180",
        "reflection", "inversion", "translation 1", "translation 100",
        "translation 10000", "transposition", "reversal", "composition", "joint",
    }  # fmt: skip
    assert {row.dtype for row in report.rows} == {"float32", "float64"}
    identity = [row for row in report.rows if row.element == "identity"]
    assert all(row.max_abs == 0 and row.tolerance == 0 for row in identity)


@pytest.mark.parametrize(
    ("fn", "kind_in", "kind_out", "group", "shape"),
    [
        (lambda p: torch.linalg.matrix_power(p, 2), "matrix", "matrix", "O(3)", (4, 3, 3)),
        (lambda x: x[..., 0, :].cross(x[..., 1, :], dim=-1), "vector", "pseudovector",
         "O(3)", (4, 5, 3)),
        (lambda x: x.norm(dim=-1) / x.norm(), "vector", "node_scalar", "scale", (1, 5, 3)),
        (lambda x: x.mean(1), "position", "vector@", "GL(3)", (4, 5, 3)),
        (lambda x: x.mean(1), "position", "position@", "Aff(3)", (4, 5, 3)),
        (torch.linalg.det, "matrix", "scalar", "SL(3)", (4, 3, 3)),
        (lambda u: u @ u.mT, "eigenvectors", "scalar", "basis(2)", (4, 6, 4)),
        (lambda u: u.square(), "eigenvectors", "scalar", "sign", (4, 6, 4)),
        (lambda i: i.mean((-1, -2)), "image", "scalar", "C4", (4, 2, 8, 8)),
        (lambda i: i - i.roll(1, -1).roll(-1, -1) + i**2, "image", "image", "D4", (4, 8, 8)),
        (lambda v: v.exp(), "volume", "volume", "octahedral", (2, 4, 4, 4)),
        (lambda v: v.exp(), "volume", "volume", "full-octahedral", (2, 4, 4, 4)),
        (lambda s: s - s.roll(1, -2), "series", "series", "time-shift", (3, 12, 2)),
    ],
)  # fmt: skip
def test_groups_and_types(fn, kind_in, kind_out, group, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert_equivariant(fn, x, kind_in, kind_out, group, n=3)


def test_spd_congruence():
    g = torch.Generator().manual_seed(2)
    a, b = (torch.randn(5, 3, 9, generator=g) for _ in range(2))
    spectrum = lambda p, q: (
        torch.linalg.eigvals(torch.linalg.solve(p, q)).real.sort().values
    )
    report = check_equivariance(
        spectrum, (a @ a.mT, b @ b.mT), ("spd", "spd"), "scalar", "SPD-congruence",
        n=3, dtypes=["float64"],
    )  # fmt: skip
    assert report.passed, report.summary()
    trace = check_equivariance(
        lambda p: p.diagonal(dim1=-1, dim2=-2).sum(-1), a @ a.mT, "spd", "scalar",
        "SPD-congruence", n=2,
    )  # fmt: skip
    assert trace.verdict == "FAIL"


def test_reflection_is_told_from_rotation(points):
    volume = lambda x: torch.linalg.det(centered(x)[:, :3])
    assert_equivariant(volume, points, "position", "scalar", "SE(3)")
    report = check_equivariance(volume, points, "position", "scalar", "E(3)")
    failed = {row.element for row in report.rows if row.verdict != "PASS"}
    assert "reflection" in failed and "rotation 90" not in failed


def test_large_scales_and_offsets_pass(points):
    assert_equivariant(lambda x: 1e6 * stretched(x), points, "position", "vector")
    assert_equivariant(stretched, 1e3 * points, "position", "vector")


def test_user_group(points):
    class Cyclic:
        def sample(self, generator):
            return int(torch.randint(1, 5, (1,), generator=generator))

        def act(self, element, x, kind):
            return x.roll(element, 1) if kind == "node_scalar" else x

        def name(self, element):
            return f"shift {element}"

    fn = lambda x: x - x.roll(1, 1)
    report = check_equivariance(fn, points, "node_scalar", "node_scalar", Cyclic())
    assert report.passed
    bad = check_equivariance(
        lambda x: x.cumsum(1), points, "node_scalar", "node_scalar", Cyclic()
    )
    assert bad.verdict == "FAIL"
    assert "composition" in {row.element for row in report.rows}


def test_outputs_of_every_container(points):
    class Out(NamedTuple):
        place: torch.Tensor
        size: torch.Tensor

    fn = lambda x: Out(x.mean(1), centered(x).norm(dim=-1))
    types = ("position@", "node_scalar")
    assert_equivariant(fn, points, "position", types, "S(n) x E(3)", n=2)
    as_dict = lambda x: fn(x)._asdict()
    assert_equivariant(
        as_dict, {"x": points}, {"x": "position"}, {"size": "node_scalar"}, n=2
    )
    with pytest.raises(ValueError, match="out_types"):
        check_equivariance(fn, points, "position", "scalar")


def test_graph_edges_follow_the_nodes(points):
    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])

    def message(x, edges):
        out = torch.zeros_like(x)
        return out.index_add(1, edges[1], (x[:, edges[0]] - x[:, edges[1]]).sin())

    assert_equivariant(
        message, (points, edges), ("node_scalar", "edge_index"), "node_scalar", "S(n)"
    )


# --- negative controls --------------------------------------------------------


class Float32Inside(nn.Module):
    def forward(self, x):
        return stretched(x.float()).to(x.dtype)


class OverAgents(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


OFFSET = torch.tensor([0.0, 0.0, 1.0])
CONTROLS = {
    "abs": (torch.abs, "vector", "vector", "O(3)", "FAIL"),
    "plus a constant": (lambda x: x + OFFSET.to(x), "vector", "vector", "O(3)", "FAIL"),
    "sorted": (lambda x: x.sort(1).values, "position", "position", "E(3)", "FAIL"),
    "max over coordinates": (lambda x: x.amax(-1), "vector", "node_scalar", "O(3)", "FAIL"),
    "NaN": (lambda x: x * torch.nan, "position", "position", "E(3)", "NONFINITE"),
    "zero": (torch.zeros_like, "position", "vector", "E(3)", "VACUOUS"),
    "constant": (lambda x: torch.ones_like(x[..., 0]), "position", "node_scalar", "E(3)",
                 "VACUOUS"),
    "small outputs": (lambda x: 1e-6 * x.abs(), "vector", "vector", "O(3)", "FAIL"),
    "small part wrong": (lambda x: x + 5e-4 * x.abs(), "vector", "vector", "O(3)", "FAIL"),
    "float32 inside": (Float32Inside(), "position", "vector", "E(3)", "FAIL"),
    "order of agents": (OverAgents(), "node_scalar", "node_scalar", "S(n)", "FAIL"),
    "dropout": (lambda x: nn.functional.dropout(stretched(x).norm(dim=-1), 0.5),
                "position", "node_scalar", "E(3)", "STOCHASTIC"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLS)
def test_negative_controls_are_caught(points, name):
    torch.manual_seed(0)
    fn, kind_in, kind_out, group, verdict = CONTROLS[name]
    report = check_equivariance(fn, points, kind_in, kind_out, group, n=4)
    assert not report.passed
    assert report.verdict == verdict, report.summary()
    with pytest.raises(AssertionError, match=verdict):
        assert_equivariant(fn, points, kind_in, kind_out, group, n=4)


def test_lost_digits_are_ill_conditioned_not_wrong(points):
    lossy = lambda x: ((x + 1e2).square() - 1e4).sum(-1) - 2e2 * x.sum(-1)
    report = check_equivariance(lossy, points, "vector", "node_scalar", "O(3)")
    assert report.verdict == "ILL-CONDITIONED", report.summary()
    assert_equivariant(
        lossy, points, "vector", "node_scalar", "O(3)", allow=["ILL-CONDITIONED"]
    )


def test_noise_by_expectation_and_by_seed(points):
    noisy = lambda x: centered(x) + 0.1 * torch.randn_like(x)
    kinds = ("position", "vector", "SO(3)")
    assert check_equivariance(noisy, points, *kinds).verdict != "PASS"
    assert check_equivariance(noisy, points, *kinds, n=2, expectation=32).passed
    biased = lambda x: noisy(x) + 0.3 * torch.ones_like(x)
    report = check_equivariance(biased, points, *kinds, n=2, expectation=32)
    assert report.verdict == "FAIL"
    dropped = lambda x: nn.functional.dropout(centered(x).norm(dim=-1))
    assert check_equivariance(
        dropped, points, "position", "node_scalar", fixed_noise=True
    ).passed


# --- side checks ----------------------------------------------------------------


def _check(report, name):
    return next(check for check in report.checks if check.name == name)


def test_modified_inputs_are_noticed(points):
    def careless(x):
        x -= x.mean(1, keepdim=True)
        return x.norm(dim=-1)

    report = check_equivariance(careless, points, "position", "node_scalar")
    assert _check(report, "no side effects").verdict == "FAIL"


def test_batch_dependence_is_noticed(points):
    mixed = lambda x: centered(x).norm(dim=-1) / centered(x).norm()
    report = check_equivariance(mixed, points, "position", "node_scalar")
    assert _check(report, "batch independence").verdict == "FAIL"
    assert all(row.verdict == "PASS" for row in report.rows)


def test_padding_dependence_is_noticed(points):
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[::2, 3:] = False

    def good(x, mask):
        x = torch.where(mask[..., None], x, torch.zeros_like(x))
        mean = x.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        return torch.where(mask, (x - mean).norm(dim=-1), torch.zeros_like(x[..., 0]))

    def bad(x, mask):
        return centered(x * mask[..., None]).norm(dim=-1)

    kinds = ("position", "mask"), "node_scalar", "S(n) x E(3)"
    assert_equivariant(good, (points, mask), *kinds, n=2)
    report = check_equivariance(bad, (points, mask), *kinds, n=2)
    assert _check(report, "padding independence").verdict == "FAIL"


def test_state_is_given_back(points):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(5)
            self.frozen = nn.Dropout()

        def forward(self, x):
            return self.norm(centered(x).norm(dim=-1))

    model = Counting().train()
    model.frozen.eval()
    weight, mean = model.norm.weight.data, model.norm.running_mean.clone()
    state = torch.get_rng_state()
    check_equivariance(model, points, "position", "node_scalar", mode="train", n=2)
    check_equivariance(
        lambda x: model(x), points, "position", "node_scalar", n=2, dtypes=["float64"]
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and not model.frozen.training
    assert model.norm.weight.data.data_ptr() == weight.data_ptr()
    assert torch.equal(model.norm.running_mean, mean)
    assert model.norm.running_mean.dtype == torch.float32


def test_gradients_transform_and_are_right(points):
    energy = lambda x: torch.cdist(x, x).square().tanh().sum((-1, -2))
    report = assert_equivariant(
        energy, points, "position", "scalar", "S(n) x E(3)", n=2, gradient=True
    )
    assert any("(grad)" in row.element for row in report.rows)

    # invariant with an invariant, wrong gradient: only differences can tell
    detached = lambda x: (
        centered(x).norm(dim=-1).detach() * centered(x).norm(dim=-1)
    ).sum(-1)
    report = check_equivariance(
        detached, points, "position", "scalar", n=2, gradient=True
    )
    assert _check(report, "gradient against differences").verdict == "FAIL"

    def angle(x):
        u = nn.functional.normalize(x[:, 0], dim=-1)
        cosine = (u * u).sum(-1).clamp(max=1.0)
        return torch.acos(cosine) + x.norm(dim=-1).sum(-1)

    report = check_equivariance(
        angle, points, "vector", "scalar", "O(3)", gradient=True
    )
    assert report.verdict == "NONFINITE"
    with pytest.raises(ValueError, match="scalar output"):
        check_equivariance(centered, points, "position", "vector", gradient=True)


def test_small_gaps_of_frames_widen_the_tolerance():
    from manifoldkit.equivariant import FrameAveraging

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
    framed = FrameAveraging(net, "SE(3)", out_types="vector", on_degenerate="ignore")
    g = torch.Generator().manual_seed(1)
    # the two short axes differ by one part in a thousand
    q = torch.linalg.qr(torch.randn(9, 3, generator=g, dtype=torch.float64))[0]
    q = torch.linalg.qr(q - q.mean(0))[0]
    near = (q * torch.tensor([2.0, 1.0, 1.001]).double())[None]
    generic = torch.randn(1, 9, 3, generator=g, dtype=torch.float64)
    tolerance = {}
    for name, x in (("near", near), ("generic", generic)):
        report = assert_equivariant(
            framed, x, "position", "vector", "SO(3)", n=4, modules=[net]
        )
        tolerance[name] = report.rows[-1].tolerance
        assert float(framed.frame_gap(x)) < (1e-2 if name == "near" else 1)
    assert tolerance["near"] > 20 * tolerance["generic"]


@pytest.mark.parametrize("name", ["NaN", "small outputs"])
def test_controls_that_absolute_tolerances_let_through(points, name):
    """What e3nn's helper passes, ours does not."""
    helper = pytest.importorskip("e3nn.util.test").assert_equivariant
    fn = CONTROLS[name][0]
    torch.manual_seed(0)
    helper(
        fn, args_in=[points[0].float()], irreps_in=["1x1o"], irreps_out=["1x1o"],
        tolerance=1e-3,
    )  # fmt: skip
    report = check_equivariance(fn, points, "vector", "vector", "O(3)", n=2)
    assert not report.passed


# --- types ----------------------------------------------------------------------


def test_irreps_agree_with_tensors():
    e3nn = pytest.importorskip("e3nn.o3")
    g = torch.Generator().manual_seed(3)
    for _ in range(5):
        q = random_orthogonal(3, g)
        element = Element("generic", matrix=q)
        v = torch.randn(7, 3, generator=g, dtype=torch.float64)
        a, b = transform(element, v, "1x1o"), transform(element, v, "vector")
        assert (a - b).abs().max() < 1e-12
        axial = transform(element, v, "1e"), transform(element, v, "pseudovector")
        assert (axial[0] - axial[1]).abs().max() < 1e-12
        y = e3nn.spherical_harmonics("0e+1o+2e", v, normalize=True)
        moved = e3nn.spherical_harmonics("0e+1o+2e", v @ q.T, normalize=True)
        turned = transform(element, y, e3nn.Irreps("0e+1o+2e"))
        assert (turned - moved).abs().max() < 1e-12


def test_e3nn_module_passes():
    e3nn = pytest.importorskip("e3nn.o3")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # e3nn keeps its constants in this dtype
    try:
        layer = e3nn.FullyConnectedTensorProduct("2x1o", "1x1o", "3x0e + 1x1e + 1x2e")
    finally:
        torch.set_default_dtype(torch.float32)
    x, y = torch.randn(4, 6), torch.randn(4, 3)
    assert_equivariant(
        layer, (x, y), ("2x1o", "1x1o"), "3x0e + 1x1e + 1x2e", "O(3)", n=3
    )


# --- bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "group", "error", "message"),
    [
        (
            ("position", "vector"),
            "SU(2)",
            ValueError,
            r"group: expected .*found 'SU\(2\)'",
        ),
        (("velocity", "vector"), "E(3)", ValueError, "unknown type"),
        (("position", "vector"), "E(2)", ValueError, "dimension 3"),
        (("scalar", "scalar"), "S(n)", ValueError, "nodes"),
        (("position", 3), "E(3)", TypeError, "types are strings"),
        (("position", "vector"), 7, TypeError, "group"),
    ],
)
def test_bad_arguments(points, kinds, group, error, message):
    with pytest.raises(error, match=message):
        check_equivariance(stretched, points, *kinds, group)


def test_bad_output_mode_dtype_elements(points):
    with pytest.raises(TypeError, match="NoneType"):
        check_equivariance(lambda x: None, points, "position", "vector")
    with pytest.raises(ValueError, match="mode"):
        check_equivariance(stretched, points, "position", "vector", mode="test")
    with pytest.raises(ValueError, match="dtypes"):
        check_equivariance(stretched, points, "position", "vector", dtypes=["int8"])
    with pytest.raises(ValueError, match="elements"):
        check_equivariance(stretched, points, "position", "vector", elements="warp")


def test_chosen_elements_and_tables(points):
    report = check_equivariance(
        stretched, points, "position", "vector", elements=["translation"], n=1
    )
    assert {row.element for row in report.rows} == {
        "translation 1", "translation 100", "translation 10000"
    }  # fmt: skip
    frame = report.to_frame()
    assert len(frame) == len(report.rows) == len(report.to_records())
    assert "passed" in report.summary() and str(report) == report.summary()


@pytest.mark.parametrize("group", ["E(2)", "SE(4)", "O(1)", "SO(5)"])
def test_any_dimension(group):
    d = int(group[-2])
    x = torch.randn(3, 4, d, generator=torch.Generator().manual_seed(4))
    assert_equivariant(stretched, x, "position", "vector", group, n=2)


def test_motion_model_is_checked_in_seconds():
    torch.manual_seed(0)
    model = EqMotion(20, 20)
    x = torch.randn(8, 5, 20, 3, generator=torch.Generator().manual_seed(5)).cumsum(2)
    start = time.perf_counter()
    report = check_equivariance(
        lambda x: model(x).pred, x, "position@1", "position@1", "S(n) x E(3)"
    )
    assert report.passed, report.summary()
    assert time.perf_counter() - start < 60  # the target of 5 s is in benchmarks/
