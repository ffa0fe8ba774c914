"""Particles on springs or with charges, simulated as the published benchmarks are."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_counts

_STEP = 0.001  # time unit of the benchmark's integrator
_CLIP = 100.0  # largest component of a force under integrator="reference"
_SPEED = 0.5
_BOX = 5.0
_STIFFNESS = 0.1
Force = Callable[[Tensor], Tensor]
CHUNK = 1024  # trajectories integrated at once: the working set stays in cache


class ParticleData(NamedTuple):
    """Trajectories of interacting particles; times in units of the benchmark.

    Attributes
    ----------
    loc, vel : ndarray, shape (n_traj, n_agents, n_frames, dim)
        Positions and velocities; frame k is taken after ``(k + 1) * every`` steps of
        0.001.
    edges : ndarray, shape (n_traj, n_agents, n_agents)
        Springs: 1 where two particles are joined, else 0. Charged: product of the
        charges (1 on the diagonal, where nothing acts).
    charges : ndarray, shape (n_traj, n_agents), or None
        -1 or 1; None for springs.
    """

    loc: np.ndarray
    vel: np.ndarray
    edges: np.ndarray
    charges: np.ndarray | None


class NBodyData(NamedTuple):
    """Charged particles now, and where they are later.

    Attributes
    ----------
    loc, vel : ndarray, shape (n_traj, n_agents, dim)
        The state at frame 30.
    target : ndarray, shape (n_traj, n_agents, dim)
        Positions at frame 40, one time unit later.
    charges : ndarray, shape (n_traj, n_agents)
        -1 or 1.
    """

    loc: np.ndarray
    vel: np.ndarray
    target: np.ndarray
    charges: np.ndarray


def simulate_particles(
    kind: str,
    n_traj: int,
    n_agents: int = 5,
    steps: int = 10000,
    every: int = 200,
    seed: int = 42,
    dim: int = 3,
    protocol: str = "nri3d",
    integrator: str = "reference",
    device: str | torch.device | None = None,
    *,
    skip: int = 0,
    substeps: int = 1,
) -> ParticleData:
    r"""Simulate particles joined by springs, or charged ones.

    .. math:: \ddot x_i = -0.1 \sum_j e_{ij} (x_i - x_j) \qquad\text{or}\qquad
        \ddot x_i = \sum_{j \ne i} q_i q_j \frac{x_i - x_j}{|x_i - x_j|^3}

    Springs: each pair is joined with probability 1/2; positions :math:`N(0, 0.5^2)`.
    Charged: charges -1 or 1; positions :math:`N(0, (N/5)^{2/3})`. Speed 0.5 in an
    isotropic direction; unit masses; no walls.

    Parameters
    ----------
    kind : {"springs", "charged"}
        The force.
    n_traj, n_agents, dim : int
        Trajectories, particles and space dimensions.
    steps, every : int, default=10000, 200
        Steps of 0.001, and how many of them lie between frames; ``steps / every - 1``
        frames.
    seed : int, default=42
        Seed of NumPy's legacy generator. One stream of draws: initial states are those
        of the published sets (springs and charged: seed 42, trajectories 0-9999 train,
        10000-11999 validate, 12000-13999 test; see also :func:`make_n_body`).
    protocol : {"nri3d"}
        Constants and order of draws.
    integrator : {"reference", "verlet"}, default="reference"
        "reference" is the benchmark's: symplectic Euler after a full kick, forces
        clipped at 100 a component, which violates the conservation of energy at close
        encounters. Only it matches the published sets (springs bit for bit; charged
        trajectories are chaotic and some part). "verlet" is velocity Verlet without a
        clip.
    device : str or torch.device, optional
        Where to compute (default the processor); the arrays come back to memory.
    skip : int, default=0
        Trajectories of the stream to pass over, without integrating them.
    substeps : int, default=1
        Steps of Verlet within each 0.001.

    Returns
    -------
    ParticleData

    Raises
    ------
    ValueError
        Unknown names, counts out of range, ``steps`` not a multiple of ``every``.

    References
    ----------
    .. [1] T. Kipf et al., "Neural relational inference for interacting systems",
       ICML 2018.
    .. [2] F. Fuchs et al., "SE(3)-Transformers", NeurIPS 2020 (three dimensions).

    Examples
    --------
    >>> data = simulate_particles("springs", n_traj=2, steps=400, every=100)
    >>> data.loc.shape, data.edges[0].tolist()[0]
    ((2, 5, 3, 3), [0.0, 0.0, 0.0, 0.0, 1.0])
    """
    check_choice(kind, ("springs", "charged"), "kind")
    check_choice(protocol, ("nri3d",), "protocol")
    check_choice(integrator, ("reference", "verlet"), "integrator")
    check_counts(n_agents=n_agents, dim=dim, every=every, substeps=substeps)
    for name, value in {"n_traj": n_traj, "skip": skip}.items():
        check_count(value, name, least=0)
    if check_count(steps, "steps", least=2 * every) % every:
        raise ValueError(f"steps: expected a multiple of {every}, found {steps}")
    springs, frames = kind == "springs", steps // every - 1
    loc, vel, edges, charges = _initial_states(
        springs, n_traj, n_agents, frames, dim, seed, skip
    )
    march = _march_reference if integrator == "reference" else _march_verlet
    out_loc = np.empty((n_traj, n_agents, frames, dim))
    out_vel = np.empty_like(out_loc)
    with torch.no_grad():
        for start in range(0, n_traj, CHUNK):
            part = slice(start, start + CHUNK)
            # (dim, agents, trajectories): the long axis last, for vector instructions
            x, v, e = (
                torch.as_tensor(np.ascontiguousarray(np.moveaxis(a[part], 0, -1)))
                .to(device or "cpu")
                .double()
                for a in (loc, vel, edges)
            )
            force = _Springs(e) if springs else _Charges(e)
            states = march(x, v, force, steps, every, substeps)
            for k, state in enumerate(states):
                for out, now in zip((out_loc, out_vel), state, strict=True):
                    out[part, :, k] = now.permute(2, 1, 0).cpu().numpy()
    return ParticleData(out_loc, out_vel, edges, None if springs else charges)


def make_n_body(
    n_traj: int = 3000,
    n_agents: int = 5,
    seed: int = 43,
    *,
    skip: int = 0,
    integrator: str = "reference",
    device: str | torch.device | None = None,
) -> NBodyData:
    """Simulate the small n-body set of EGNN and of frame averaging.

    Charged particles; given positions and velocities at frame 30 (100 steps a frame),
    predict the positions at frame 40. With the default seed the initial states are
    those of the published set, of which trajectories 0-2999 train, 10000-11999
    validate and 12000-13999 test (``skip=12000``).

    Parameters
    ----------
    n_traj, n_agents, seed, skip, integrator, device
        As in :func:`simulate_particles`.

    Returns
    -------
    NBodyData

    References
    ----------
    .. [1] V. Satorras et al., "E(n) equivariant graph neural networks", ICML 2021.

    Examples
    --------
    >>> data = make_n_body(n_traj=2)
    >>> data.loc.shape, data.charges.tolist()[0]
    ((2, 5, 3), [-1.0, 1.0, -1.0, -1.0, -1.0])
    """
    data = simulate_particles(
        "charged",
        n_traj,
        n_agents,
        steps=5000,
        every=100,
        seed=seed,
        integrator=integrator,
        device=device,
        skip=skip,
    )
    return NBodyData(
        data.loc[:, :, 30].copy(),
        data.vel[:, :, 30].copy(),
        data.loc[:, :, 40].copy(),
        np.asarray(data.charges),
    )


def _initial_states(
    springs: bool, n_traj: int, n: int, frames: int, dim: int, seed: int, skip: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw in the order of the published generator; nothing else may be drawn."""
    rng = np.random.RandomState(seed)
    loc, vel = np.empty((2, n_traj, dim, n))
    edges, charges = np.empty((n_traj, n, n)), np.empty((n_traj, n))
    spread = 0.5 if springs else (n / 5) ** (1 / 3)
    for k in range(-skip, n_traj):
        if springs:
            e = rng.choice([0.0, 0.5, 1.0], size=(n, n), p=[0.5, 0, 0.5])
            e = np.tril(e) + np.tril(e, -1).T
            np.fill_diagonal(e, 0)
        else:
            q = rng.choice([-1.0, 0.0, 1.0], size=(n, 1), p=[0.5, 0, 0.5])
            e = q @ q.T
        x, v = rng.randn(dim, n) * spread, rng.randn(dim, n)
        rng.randn(2 * frames * dim * n)  # observation noise of variance zero
        if k < 0:
            continue
        v = v * _SPEED / np.sqrt((v**2).sum(axis=0))
        over, under = x > _BOX, x < -_BOX
        x[over], v[over] = 2 * _BOX - x[over], -np.abs(v[over])
        x[under], v[under] = -2 * _BOX - x[under], np.abs(v[under])
        loc[k], vel[k], edges[k] = x, v, e
        if not springs:
            charges[k] = q[:, 0]
    return loc, vel, edges, charges


class _Springs:
    """F_i = -0.1 sum_j e_ij (x_i - x_j), summed over j in order."""

    def __init__(self, edges: Tensor):
        self.weight = -_STIFFNESS * edges

    def __call__(self, x: Tensor) -> Tensor:
        force = torch.zeros_like(x)
        for j in range(x.shape[1]):
            # a product and a sum, not fused: the published sets are met bit for bit
            force.add_((x - x[:, j : j + 1]).mul_(self.weight[:, j]))
        return force


class _Charges:
    """F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3; each pair is computed once."""

    def __init__(self, edges: Tensor):
        n = edges.shape[0]
        self.i, self.j = torch.triu_indices(n, n, 1, device=edges.device)
        self.weight = edges[self.i, self.j]
        # of each particle: the pairs it comes first in, and those it comes second in
        self.rows = [
            [(side == a).nonzero()[:, 0].tolist() for side in (self.i, self.j)]
            for a in range(n)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        gap = x[:, self.i] - x[:, self.j]
        square = gap[0] * gap[0]
        for g in gap[1:]:
            square.addcmul_(g, g)
        pull = gap.mul_(self.weight / (square * square.sqrt()))
        force = torch.zeros_like(x)
        for a, (first, second) in enumerate(self.rows):
            for p in first:
                force[:, a].add_(pull[:, p])
            for p in second:
                force[:, a].sub_(pull[:, p])
        return force


def _march_reference(
    x: Tensor, v: Tensor, force: Force, steps: int, every: int, substeps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield states at every frame: full kick first, then drift and kick in turn."""
    if substeps != 1:
        raise ValueError("substeps: only integrator='verlet' takes more than 1")
    v.add_(force(x).clamp_(-_CLIP, _CLIP).mul_(_STEP))
    for i in range(1, steps - every + 1):
        x.add_(v * _STEP)
        if i % every == 0:
            yield x, v
        v.add_(force(x).clamp_(-_CLIP, _CLIP).mul_(_STEP))


def _march_verlet(
    x: Tensor, v: Tensor, force: Force, steps: int, every: int, substeps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield states at every frame: half kick, drift, half kick."""
    h = _STEP / substeps
    f = force(x)
    for i in range(1, steps - every + 1):
        for _ in range(substeps):
            v.add_(f, alpha=h / 2)
            x.add_(v, alpha=h)
            f = force(x)
            v.add_(f, alpha=h / 2)
        if i % every == 0:
            yield x, v
