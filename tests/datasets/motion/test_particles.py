"""Particles: the published streams of draws, and the laws of mechanics."""

import numpy as np
import pytest

from manifoldkit.datasets import make_n_body, simulate_particles


def plain_loop(kind, seed, steps, every, n=5, dim=3):
    """One trajectory, step by step, as the published generator makes it."""
    rng = np.random.RandomState(seed)
    if kind == "springs":
        e = rng.choice([0.0, 0.5, 1.0], size=(n, n), p=[0.5, 0, 0.5])
        e = np.tril(e) + np.tril(e, -1).T
        np.fill_diagonal(e, 0)
        x = rng.randn(dim, n) * 0.5
    else:
        q = rng.choice([-1.0, 0.0, 1.0], size=(n, 1), p=[0.5, 0, 0.5])
        e = q @ q.T
        x = rng.randn(dim, n) * (n / 5) ** (1 / 3)
    v = rng.randn(dim, n)
    v = v * 0.5 / np.sqrt((v**2).sum(0))

    def force():
        f = np.zeros((dim, n))
        for i in range(n):
            for j in range(n):
                gap = x[:, i] - x[:, j]
                if kind == "springs":
                    f[:, i] += -0.1 * e[i, j] * gap
                elif i != j:
                    f[:, i] += e[i, j] * gap / np.linalg.norm(gap) ** 3
        return f.clip(-100, 100)

    v = v + 0.001 * force()
    frames = []
    for i in range(1, steps):
        x = x + 0.001 * v
        if i % every == 0:
            frames.append((x.T.copy(), v.T.copy()))
        v = v + 0.001 * force()
    loc, vel = (np.stack(a, 1) for a in zip(*frames, strict=True))
    return loc, vel, e


@pytest.mark.parametrize("kind", ["springs", "charged"])
def test_first_frames_are_those_of_the_plain_loop(kind):
    data = simulate_particles(kind, 3, steps=600, every=100)
    loc, vel, edges = plain_loop(kind, 42, 600, 100)
    assert data.loc.shape == (3, 5, 5, 3)
    np.testing.assert_array_equal(data.edges[0], edges)
    if kind == "springs":  # bit for bit
        np.testing.assert_array_equal(data.loc[0], loc)
        np.testing.assert_array_equal(data.vel[0], vel)
    np.testing.assert_allclose(data.loc[0], loc, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(data.vel[0], vel, rtol=1e-9, atol=1e-9)


def test_draws_of_the_seed_contract():
    # counted by hand: choice, two states, two discarded blocks of noise a trajectory
    rng = np.random.RandomState(42)
    for _ in range(2):
        rng.choice([-1.0, 0.0, 1.0], size=(5, 1), p=[0.5, 0, 0.5])
        rng.randn(3, 5)
        rng.randn(3, 5)
        rng.randn(4, 3, 5)
        rng.randn(4, 3, 5)
    third = rng.choice([-1.0, 0.0, 1.0], size=(5, 1), p=[0.5, 0, 0.5])[:, 0]
    data = simulate_particles("charged", 3, steps=500, every=100)
    np.testing.assert_array_equal(data.charges[2], third)
    np.testing.assert_array_equal(
        data.edges[2], data.charges[2][:, None] * data.charges[2]
    )


def test_skipping_passes_over_the_stream():
    whole = simulate_particles("springs", 5, steps=400, every=200)
    tail = simulate_particles("springs", 2, steps=400, every=200, skip=3)
    np.testing.assert_array_equal(tail.loc, whole.loc[3:])
    assert simulate_particles("springs", 0, steps=400).loc.shape == (0, 5, 1, 3)


def test_chunks_do_not_matter(monkeypatch):
    from manifoldkit.datasets.motion import particles

    whole = simulate_particles("charged", 5, steps=400, every=200)
    monkeypatch.setattr(particles, "CHUNK", 2)
    parts = simulate_particles("charged", 5, steps=400, every=200)
    np.testing.assert_array_equal(parts.loc, whole.loc)


def energy(kind, data):
    gap = data.loc[:, :, None] - data.loc[:, None]
    square = (gap**2).sum(-1)
    e = data.edges[..., None]
    if kind == "springs":
        potential = 0.25 * 0.1 * (e * square).sum((1, 2))
    else:
        i, j = np.triu_indices(5, 1)
        potential = (e[:, i, j] / np.sqrt(square[:, i, j])).sum(1)
    return 0.5 * (data.vel**2).sum((1, 3)) + potential


@pytest.mark.parametrize("integrator", ["reference", "verlet"])
def test_conservation_on_springs(integrator):
    data = simulate_particles(
        "springs", 50, steps=4000, every=400, integrator=integrator
    )
    total = energy("springs", data)
    drift = np.abs(total / total[:, :1] - 1).max()
    assert drift < (1e-3 if integrator == "reference" else 1e-6)
    np.testing.assert_allclose(
        data.vel.sum(1), np.repeat(data.vel[:, :, :1].sum(1), 9, 1), atol=1e-9
    )


def test_verlet_keeps_the_energy_that_the_clipped_steps_lose():
    drifts = {}
    for integrator, more in (("reference", {}), ("verlet", {"substeps": 5})):
        data = simulate_particles(
            "charged", 40, steps=4000, every=200, integrator=integrator, **more
        )
        total = energy("charged", data)
        drifts[integrator] = np.abs(total - total[:, :1]).max(1)
    assert np.quantile(drifts["verlet"], 0.8) < 0.02
    assert np.median(drifts["verlet"]) < 0.1 * np.median(drifts["reference"])


def test_two_bodies_on_a_spring_swing_as_they_should():
    # reduced mass 1/2: the gap has frequency sqrt(2 k)
    data = simulate_particles(
        "springs", 30, 2, steps=8000, every=100, integrator="verlet"
    )
    joined = data.edges[:, 0, 1] == 1
    assert 5 < joined.sum() < 25
    gap = (data.loc[:, 0] - data.loc[:, 1])[joined]
    speed = (data.vel[:, 0] - data.vel[:, 1])[joined]
    w = np.sqrt(2 * 0.1)
    t = 0.1 * np.arange(gap.shape[1])[:, None]
    expected = gap[:, :1] * np.cos(w * t) + speed[:, :1] / w * np.sin(w * t)
    np.testing.assert_allclose(gap, expected, atol=1e-6)
    free = (data.loc[:, 0] - data.loc[:, 1])[~joined]
    np.testing.assert_allclose(np.diff(free, 2, axis=1), 0, atol=1e-9)


@pytest.mark.parametrize(("n", "dim"), [(1, 3), (3, 2), (7, 1)])
def test_other_sizes(n, dim):
    for kind in ("springs", "charged"):
        data = simulate_particles(kind, 4, n, steps=400, every=100, dim=dim)
        assert data.loc.shape == (4, n, 3, dim)
        assert np.isfinite(data.loc).all()


def test_n_body_set():
    data = make_n_body(60)
    full = simulate_particles("charged", 60, steps=5000, every=100, seed=43)
    np.testing.assert_array_equal(data.target, full.loc[:, :, 40])
    np.testing.assert_array_equal(data.vel, full.vel[:, :, 30])
    # figures of 2000 test trajectories: 0.2715 without motion, 0.0836 for x + 0.7237 v
    still = ((data.target - data.loc) ** 2).mean()
    linear = ((data.target - data.loc - 0.7237 * data.vel) ** 2).mean()
    assert still == pytest.approx(0.2715, rel=0.25)
    assert linear == pytest.approx(0.0836, rel=0.4)


@pytest.mark.slow
def test_published_figures_of_the_regenerated_test_sets():
    for kind, ade, fde in (("charged", 0.743, 1.500), ("springs", 0.573, 1.454)):
        loc = simulate_particles(kind, 2000, skip=12000).loc
        k = np.arange(1, 21)[:, None]
        pred = loc[:, :, 19:20] + k * (loc[:, :, 19:20] - loc[:, :, 18:19])
        error = np.linalg.norm(pred - loc[:, :, 20:40], axis=-1)
        assert error.mean() == pytest.approx(ade, abs=2e-3)
        assert error[..., -1].mean() == pytest.approx(fde, abs=4e-3)


def test_errors():
    for bad, match in (
        ({"kind": "gravity"}, "kind"),
        ({"n_traj": -1}, "n_traj"),
        ({"steps": 150, "every": 100}, "steps"),
        ({"steps": 100, "every": 100}, "steps"),
        ({"protocol": "other"}, "protocol"),
        ({"integrator": "rk4"}, "integrator"),
        ({"substeps": 2}, "substeps"),
        ({"n_agents": 0}, "n_agents"),
    ):
        options = {"kind": "springs", "n_traj": 1, "steps": 400} | bad
        with pytest.raises(ValueError, match=match):
            simulate_particles(**options)
