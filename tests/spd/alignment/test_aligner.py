"""Alignment of domains: parity with pyriemann.transfer, invariances, streams."""

import numpy as np
import pytest
from pyriemann.transfer import TLCenter, TLRotate, TLScale, encode_domains
from scipy.linalg import sqrtm

from manifoldkit.spd import DomainAligner, gbw_metric

METRICS = {
    "riemann": "riemann",
    "euclid": "euclid",
    "logeuclid": "logeuclid",
    "gbw": gbw_metric(),
}


def covariances(rng, n, size=3):
    x = rng.standard_normal((n, size, 12))
    return x @ x.swapaxes(1, 2) / 12


@pytest.fixture
def data(rng):
    """Three domains behind mixings of their own, two classes."""
    X, y, domains = [], [], []
    for name in ("anna", "ben", "cleo"):
        own = covariances(rng, 16)
        labels = np.tile(["feet", "hands"], 8)
        own[labels == "feet", 0] *= 2
        own[labels == "feet", :, 0] *= 2
        mixing = rng.standard_normal((3, 3)) + 2 * np.eye(3)
        X.append(mixing @ own @ mixing.T)
        y.append(labels)
        domains += 16 * [name]
    order = rng.permutation(48)
    return np.concatenate(X)[order], np.concatenate(y)[order], np.array(domains)[order]


def peer(data, *steps):
    X, y, domains = data
    _, encoded = encode_domains(X, y, domains)
    for step in steps:  # their scaling writes into its input
        X = step.fit_transform(X.copy(), encoded)
    return X


@pytest.mark.parametrize("metric", ["riemann", "euclid", "logeuclid"])
def test_equals_pyriemann(data, metric):
    X, _, domains = data
    target = {"target_domain": "ben", "metric": metric}
    center, scale = TLCenter(**target), TLScale(**target, centered_data=True)
    options = {"domains": domains}
    found = DomainAligner(metric=metric).fit_transform(X, **options)
    np.testing.assert_allclose(found, peer(data, center), rtol=0, atol=1e-8)
    found = DomainAligner(rescale=True, metric=metric).fit_transform(X, **options)
    np.testing.assert_allclose(found, peer(data, center, scale), rtol=0, atol=1e-8)


def test_equals_pyriemann_where_it_only_scales(data):
    X, _, domains = data
    found = DomainAligner(recenter=False, rescale=True, dispersion=0.5)
    scale = TLScale(target_domain="ben", final_dispersion=0.5)
    np.testing.assert_allclose(
        found.fit_transform(X, domains=domains), peer(data, scale), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("rotation", ["euclid", "riemann"])
def test_equals_pyriemann_with_rotations(data, rotation):
    X, y, domains = data
    model = DomainAligner(
        rescale=True, rotate=True, target="ben", rotation_metric=rotation
    )
    expected = peer(
        data,
        TLCenter(target_domain="ben"),
        TLScale(target_domain="ben", centered_data=True),
        TLRotate(target_domain="ben", metric=rotation),
    )
    found = model.fit_transform(X, y, domains)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    assert np.abs(model.rotations_["anna"] - np.eye(3)).max() > 0.1


def test_equals_pyriemann_with_weights_and_gbw(data, rng):
    X, _, domains = data
    weights = rng.uniform(0.1, 1, len(X))
    _, encoded = encode_domains(X, domains, domains)
    for metric in (gbw_metric(), gbw_metric(power=0.5)):
        twin = TLCenter(target_domain="ben", metric=metric["mean"])
        expected = twin.fit_transform(X, encoded, sample_weight=weights)
        found = DomainAligner(metric=metric).fit_transform(X, None, domains, weights)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_means_come_to_the_identity_and_dispersions_to_one(data):
    X, _, domains = data
    Z = DomainAligner(rescale=True).fit_transform(X, domains=domains)
    again = DomainAligner().fit(Z, domains=domains)
    for name in again.centers_:
        np.testing.assert_allclose(again.centers_[name], np.eye(3), atol=1e-7)
        assert abs(again.dispersions_[name] - 1) < 1e-7


def test_a_mixing_changes_only_the_orientation(data, rng):
    X, _, domains = data
    mixing = rng.standard_normal((3, 3))
    mixed = np.where((domains == "anna")[:, None, None], mixing @ X @ mixing.T, X)
    before = DomainAligner().fit_transform(X, domains=domains)
    after = DomainAligner().fit_transform(mixed, domains=domains)
    values = np.linalg.eigvalsh(before), np.linalg.eigvalsh(after)
    np.testing.assert_allclose(*values, rtol=1e-7)


def test_rotation_brings_class_means_together(data, rng):
    """The same recordings behind a mixing: class means come back to where they were."""
    X, y, domains = data
    rows = domains == "anna"
    mixing = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    both = np.concatenate([X[rows], mixing @ X[rows] @ mixing.T])
    names, labels = np.repeat(["here", "there"], rows.sum()), np.tile(y[rows], 2)
    gaps = []
    for rotate in (False, True):
        model = DomainAligner(rotate=rotate, target="here")
        first, second = np.split(model.fit_transform(both, labels, names), 2)
        means = [
            DomainAligner().fit(z, domains=y[rows]).centers_ for z in (first, second)
        ]
        gaps.append(max(np.linalg.norm(means[0][c] - means[1][c]) for c in means[0]))
    assert gaps[1] < 0.1 * gaps[0]


def test_common_means_are_a_target_too(data):
    X, y, domains = data
    model = DomainAligner(rotate=True).fit(X, y, domains)
    assert set(model.rotations_) == {"anna", "ben", "cleo"}
    for rotation in model.rotations_.values():
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unseen", ["estimate", "identity"])
def test_no_unit(data, metric, unseen):
    X, _, domains = data
    seen = domains != "cleo"
    answers = []
    for unit in (1.0, 1e-12, 1e12):
        model = DomainAligner(metric=METRICS[metric], unseen=unseen, rescale=True)
        model.fit(X[seen] * unit, domains=domains[seen])
        answers.append(model.transform(X * unit, domains))
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-6, atol=1e-9)
    model = DomainAligner(metric=METRICS[metric])
    streams = [
        model.fit(X[seen] * unit, domains=domains[seen])
        .partial_fit(X * unit, domains=domains)
        .transform(X * unit, domains)
        for unit in (1.0, 1e-12)
    ]
    np.testing.assert_allclose(*streams, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unseen", ["estimate", "identity"])
def test_no_domain_changes_another(data, rng, unseen):
    X, _, domains = data
    model = DomainAligner(rescale=True, unseen=unseen)
    model.fit(X[domains == "ben"], domains=domains[domains == "ben"])
    other = np.where((domains == "cleo")[:, None, None], 1e6 * X, X)
    kept = domains != "cleo"
    expected = model.transform(X, domains)[kept]
    np.testing.assert_array_equal(model.transform(other, domains)[kept], expected)
    np.testing.assert_array_equal(model.transform(X[kept], domains[kept]), expected)
    alone = DomainAligner(rescale=True).fit(X[kept], domains=domains[kept])
    company = DomainAligner(rescale=True).fit(other, domains=domains)
    np.testing.assert_array_equal(
        alone.transform(X[kept], domains[kept]),
        company.transform(X[kept], domains[kept]),
    )


def test_unseen_domains(data):
    X, _, domains = data
    seen = domains != "cleo"
    fitted = DomainAligner().fit(X, domains=domains)
    model = DomainAligner().fit(X[seen], domains=domains[seen])
    rows = domains == "cleo"
    np.testing.assert_allclose(
        model.transform(X[rows], domains[rows]),
        fitted.transform(X[rows], domains[rows]),
        rtol=1e-12,
    )
    assert "cleo" not in model.centers_  # transform learns nothing
    # without names the matrices are one more domain
    np.testing.assert_array_equal(
        model.transform(X[rows]), model.transform(X[rows], domains[rows])
    )
    model.set_params(unseen="identity")
    np.testing.assert_allclose(
        model.transform(X[rows], domains[rows]), X[rows] / model.scale_
    )
    model.set_params(unseen="error")
    with pytest.raises(ValueError, match=r"domains: expected one of \['.*found 'cleo'"):
        model.transform(X, domains)
    with pytest.warns(UserWarning, match="single matrix of the unseen domain 'dora'"):
        DomainAligner().fit(X).transform(X[:1], ["dora"])


def test_without_domains_there_is_one(data):
    X, _, _ = data
    Z = DomainAligner().fit_transform(X)
    np.testing.assert_allclose(
        Z, DomainAligner().fit_transform(X, domains=len(X) * ["all"]), rtol=1e-12
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_stream_of_commuting_matrices_gives_the_fit(data, metric):
    X, _, domains = data
    X = np.stack([np.diag(np.diag(x)) for x in X])
    model = DomainAligner(metric=METRICS[metric], rescale=metric == "riemann")
    fitted = DomainAligner(**model.get_params()).fit(X, domains=domains)
    for i in range(len(X)):
        model.partial_fit(X[i : i + 1], domains=domains[i : i + 1])
    for name, center in fitted.centers_.items():
        np.testing.assert_allclose(model.centers_[name], center, rtol=1e-7)
        assert model.weights_[name] == fitted.weights_[name]
        if metric == "riemann":
            found, expected = model.dispersions_[name], fitted.dispersions_[name]
            assert abs(found / expected - 1) < 1e-7
    assert abs(model.scale_ / fitted.scale_ - 1) < 1e-12


def test_a_stream_in_portions_is_the_same(data):
    X, _, domains = data
    model = DomainAligner(forgetting=0.1, rescale=True)
    one = DomainAligner(**model.get_params())
    for part in np.array_split(np.arange(len(X)), 5):
        model.partial_fit(X[part], domains=domains[part])
    for i in range(len(X)):
        one.partial_fit(X[i : i + 1], domains=domains[i : i + 1])
    np.testing.assert_array_equal(
        model.transform(X, domains), one.transform(X, domains)
    )


def test_a_stream_follows_a_drift(rng):
    X = covariances(rng, 200)
    mixing = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    X[100:] = mixing @ X[100:] @ mixing.T
    late = DomainAligner().fit(X[100:]).centers_[None]
    gaps = []
    for forgetting in (0.0, 0.05):
        model = DomainAligner(forgetting=forgetting).partial_fit(X)
        whitened = np.linalg.solve(late, model.centers_[None])
        gaps.append(np.log(np.linalg.eigvals(whitened).real))
    assert np.abs(gaps[1]).max() < 0.5 < np.abs(gaps[0]).max()
    assert abs(model.weights_[None] - 20) < 0.01


def test_a_step_is_pyriemanns_geodesic(data):
    from pyriemann.geometry.geodesic import geodesic_riemann

    X, _, _ = data
    model = DomainAligner().fit(X[:9]).partial_fit(X[9:10])
    start = DomainAligner().fit(X[:9]).centers_[None]
    np.testing.assert_allclose(
        model.centers_[None], geodesic_riemann(start, X[9], 0.1), rtol=1e-10
    )


def test_hermitian_matrices(rng):
    x = rng.standard_normal((20, 3, 12)) + 1j * rng.standard_normal((20, 3, 12))
    X = x @ x.conj().swapaxes(1, 2) / 12
    Z = DomainAligner(rescale=True).fit_transform(X, domains=np.arange(20) % 2)
    mean = DomainAligner().fit(Z[::2]).centers_[None]
    np.testing.assert_allclose(mean, np.eye(3), atol=1e-7)
    np.testing.assert_allclose(Z, Z.conj().swapaxes(1, 2))
    with pytest.raises(TypeError, match="real matrices only"):
        DomainAligner(rotate=True).fit(X, np.arange(20) % 2)


def test_single_precision_and_weights(data):
    X, _, domains = data
    single = DomainAligner().fit_transform(X.astype(np.float32), domains=domains)
    assert single.dtype == np.float32
    double = DomainAligner().fit_transform(X, domains=domains)
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)
    weights = np.tile([2.0, 0.0, 1.0], 16)
    repeated = np.repeat(np.arange(48), weights.astype(int))
    twice = DomainAligner().fit(X[repeated], domains=domains[repeated])
    weighted = DomainAligner().fit(X, domains=domains, sample_weight=weights)
    for name, center in twice.centers_.items():
        np.testing.assert_allclose(weighted.centers_[name], center, rtol=1e-7)


def test_euclidean_recentering_is_that_of_he_and_wu(data):
    X, _, _ = data
    W = np.linalg.inv(sqrtm(X.mean(0)))
    found = DomainAligner(metric="euclid").fit_transform(X)
    np.testing.assert_allclose(found, W @ X @ W, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "call", "words"),
    [
        ({"metric": "harmonic"}, {}, "metric: expected 'riemann'"),
        ({"unseen": "drop"}, {}, "unseen: expected"),
        ({"forgetting": 1.0}, {}, "forgetting: expected"),
        ({"dispersion": 0.0}, {}, "dispersion: expected"),
        ({"recenter": 3}, {}, "recenter: expected"),
        ({"rotate": True, "recenter": False}, {}, "recenter=True"),
        ({"rotate": True}, {"y": None}, "requires y"),
        ({"rotate": True, "target": "zoe"}, {}, "target: expected one of"),
        ({}, {"domains": ["anna"]}, r"domains: expected shape \(48,\)"),
        ({}, {"domains": np.full(48, 0.5)}, r"domains\[0\]: expected a string"),
        ({}, {"domains": 47 * ["a"] + [3]}, "names of one kind"),
        ({}, {"domains": 47 * ["a"] + [None]}, r"domains\[47\]"),
        ({}, {"sample_weight": -np.ones(48)}, "sample_weight"),
    ],
)
def test_bad_input(data, options, call, words):
    X, y, domains = data
    with pytest.raises((ValueError, TypeError), match=words):
        DomainAligner(**options).fit(X, **{"y": y, "domains": domains} | call)


def test_names_of_another_kind_and_lacking_classes(data):
    X, y, domains = data
    model = DomainAligner().fit(X, domains=domains)
    with pytest.raises(TypeError, match="kind str as in fit, found int"):
        model.transform(X, np.arange(48))
    weights = np.where(domains == "ben", 0.0, 1.0)
    with pytest.raises(ValueError, match="positive sum in domain 'ben'"):
        DomainAligner().fit(X, domains=domains, sample_weight=weights)
    kept = (domains != "ben") | (y == "feet")
    with pytest.raises(ValueError, match="none of class 'hands' in domain 'ben'"):
        DomainAligner(rotate=True).fit(X[kept], y[kept], domains[kept])
    with pytest.raises(ValueError, match=r"matrices of shape \(n_matrices, 3, 3\)"):
        model.partial_fit(X[:, :2, :2])
