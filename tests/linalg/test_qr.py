"""Orthonormal bases: Gram-Schmidt by two routes, polar factors by products."""

import pytest
import torch

from manifoldkit.linalg import polar
from manifoldkit.linalg import qr
from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.qr import cholesky_qr, msign, newton_schulz_polar, qr_factor


def tall(generator, *batch, n=7, p=4, condition=None, dtype=torch.float64):
    x = torch.randn(*batch, n, p, dtype=torch.float64, generator=generator)
    if condition:
        u, _, vt = torch.linalg.svd(x, full_matrices=False)
        s = torch.logspace(0, -float(torch.tensor(condition).log10()), p).double()
        x = (u * s) @ vt
    return x.to(dtype)


def gap(q):
    eye = torch.eye(q.shape[-1], dtype=q.dtype)
    return float((q.mT @ q - eye).abs().max())


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_give_the_gram_schmidt_basis(batch, dtype, generator):
    x = tall(generator, *batch, dtype=dtype)
    q, c = qr_factor(x), cholesky_qr(x)
    assert q.dtype == c.dtype == dtype
    assert q.shape == c.shape == x.shape
    tol = 2e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(q, c, atol=tol, rtol=0)
    if x.numel():
        assert max(gap(q), gap(c)) < tol
        r = q.mT @ x
        assert (r.diagonal(dim1=-2, dim2=-1) > 0).all()
        assert r.tril(-1).abs().max() < 10 * tol
    torch.testing.assert_close(cholesky_qr(q), q, atol=tol, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "condition"),
    [(torch.float64, 1e3), (torch.float64, 1e12), (torch.float32, 1e4)],
)
def test_cholesky_qr_stays_orthonormal(dtype, condition, generator):
    x = tall(generator, 5, condition=condition, dtype=dtype)
    assert gap(cholesky_qr(x)) < 20 * torch.finfo(dtype).eps


def test_cholesky_qr_treats_members_alone(generator):
    """Ill-conditioned and broken members leave the others bit-identical."""
    x = tall(generator, 4)
    x = x / torch.linalg.matrix_norm(x, 2, keepdim=True)
    easy = torch.eye(7, 4).double() + 0.1 * x
    mixed = easy.clone()
    mixed[1] = tall(generator, condition=1e9)
    mixed[2] = torch.nan
    expected, found = cholesky_qr(easy), cholesky_qr(mixed)
    assert torch.equal(expected[[0, 3]], found[[0, 3]])
    assert gap(found[:2]) < 1e-12
    assert torch.isnan(found[2]).all()


def test_newton_schulz_treats_members_alone(generator):
    easy = qr_factor(tall(generator, 4)) + 0.01 * tall(generator, 4)
    mixed = easy.clone()
    mixed[1], mixed[2] = 5 * tall(generator), torch.nan
    expected, found = newton_schulz_polar(easy), newton_schulz_polar(mixed)
    assert torch.equal(expected[[0, 3]], found[[0, 3]])
    assert gap(found[:2]) < 1e-12
    assert torch.isnan(found[2]).all()


def test_derivatives(generator):
    for function in (qr_factor, cholesky_qr, newton_schulz_polar):
        x = torch.eye(5, 3).double() + 0.2 * tall(generator, 2, n=5, p=3)
        assert torch.autograd.gradcheck(function, x.requires_grad_())
    # the branch not taken must not leak NaN
    x = torch.stack([torch.eye(5, 3).double(), tall(generator, n=5, p=3, condition=50)])
    assert torch.autograd.gradcheck(cholesky_qr, x.requires_grad_(), atol=1e-4)


@pytest.mark.parametrize("condition", [1.5, 20.0, 1e6])
def test_newton_schulz_is_the_polar_factor(condition, generator):
    x = tall(generator, 3, condition=condition)
    expected = polar(x, side="right").r
    torch.testing.assert_close(newton_schulz_polar(x), expected, atol=1e-10, rtol=0)


def test_newton_schulz_near_an_orthonormal_matrix(generator):
    x = qr_factor(tall(generator)) + 0.01 * tall(generator)
    expected = polar(x, side="right").r
    for dtype, tol in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        found = newton_schulz_polar(x.to(dtype))
        torch.testing.assert_close(found, expected.to(dtype), atol=tol, rtol=0)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_msign(shape, generator):
    """Singular values come near one, singular vectors stay."""
    x = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    y = msign(x)
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    core = u.mT @ y @ vt.mT
    s = core.diagonal(dim1=-2, dim2=-1)
    assert (core - s.diag_embed()).abs().max() < 1e-10
    assert ((s > 0.6) & (s < 1.3)).all()
    assert torch.equal(msign(torch.zeros(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(msign(5 * x), y)


def test_bad_input():
    for function in (qr_factor, cholesky_qr, newton_schulz_polar):
        with pytest.raises(ValueError, match="n >= p"):
            function(torch.ones(2, 3))
        with pytest.raises(TypeError, match="floating"):
            function(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="matrices"):
        msign(torch.ones(3))


@pytest.mark.compile
def test_compiles(generator):
    x = tall(generator, 3, dtype=torch.float32)
    for function in (cholesky_qr, newton_schulz_polar, msign):
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), function(x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_newton_schulz_has_its_precision_at_every_length(dtype):
    """Single columns: no singular value but the length, at and around the radius."""
    lengths = torch.cat([torch.linspace(0.02, 4, 400), torch.tensor([0.5, 1.5]).sqrt()])
    lengths = lengths.to(dtype)
    x = torch.zeros(len(lengths), 3, 1, dtype=dtype)
    x[:, 1, 0] = lengths
    q = newton_schulz_polar(x)
    eps = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(q[:, 1, 0], torch.ones_like(lengths), rtol=0, atol=eps)
    for one in x[::7]:  # alone, without a neighbor that takes the other way
        assert abs(float(newton_schulz_polar(one)[1, 0]) - 1) <= eps


def test_accelerators_take_steps_enough(monkeypatch, generator):
    """The form that may not look at values, up to the condition that is promised."""
    x = tall(generator, 6, n=9, p=4, condition=100)
    expected = polar(x, side="right").r
    monkeypatch.setattr(qr, "must_not_look", lambda x: True)
    found = newton_schulz_polar(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("look", [True, False])
def test_scale_changes_nothing(dtype, look, monkeypatch, generator):
    x = tall(generator, 5, dtype=dtype)
    flat = torch.eye(7, 4, dtype=dtype) + 0.05 * x
    if not look:
        monkeypatch.setattr(qr, "must_not_look", lambda x: True)
    for function in (qr_factor, cholesky_qr, newton_schulz_polar, msign):
        for y in (x, flat):
            expected = function(y)
            for scale in (1e-30, 1e-18, 1e18, 1e30):
                torch.testing.assert_close(
                    function(y * scale), expected, rtol=0, atol=tolerance(dtype, 200)
                )
