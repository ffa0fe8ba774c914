"""Shared settings: one thread a process, no network, seeded generators."""

import socket

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    """Refuse connections to other machines, except in tests marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self, address):
        local = isinstance(address, str | bytes) or address[0] in (
            "127.0.0.1",
            "localhost",
            "::1",
        )
        if not local:
            raise OSError(f"tests do not use the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def generator():
    """Seeded torch generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def rng():
    """Seeded NumPy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def make_spd(generator):
    """Random SPD batches with a given condition number and dtype."""

    def make(*batch, n=4, condition=10.0, dtype=torch.float64):
        x = torch.randn(*batch, n, n, dtype=torch.float64, generator=generator)
        q, _ = torch.linalg.qr(x)
        exponent = torch.rand(*batch, n, dtype=torch.float64, generator=generator)
        if n > 1:
            exponent[..., 0], exponent[..., -1] = 0, 1
        s = condition**-exponent
        y = (q * s[..., None, :]) @ q.mT
        return ((y + y.mT) / 2).to(dtype)

    return make
