"""Figures: what they show can be read back from their artists."""

import io
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from manifoldkit import plotting
from manifoldkit.exceptions import MissingExtraError


def rows(task, names, low=0.5):
    return [
        {
            "task": task,
            "pipeline": name,
            "accuracy": 0.7 + 0.05 * k,
            "low": low,
            "high": 0.9,
            "chance": 0.5,
            "chance_bound": 0.63,
            "n": 30,
        }
        for k, name in enumerate(names)
    ]


def drawn(figure):
    """Draw to a PNG; return its size in bytes (a layout that fails raises here)."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    assert stream.getvalue().startswith(b"\x89PNG")
    return len(stream.getvalue())


def overlaps(figure, texts):
    """Say whether any two texts of a figure cover each other."""
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text().strip()]
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_scores_show_every_row_and_what_does_not_apply():
    names = ["MDM", "tangent space + LR", "ACM + tangent space + SVM, searched"]
    figure = plotting.plot_scores(rows("one", names) + rows("two", names[:2]))
    drawn(figure)
    left, right = figure.axes
    points = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [0.7, 0.75, 0.8])
    assert [t.get_text() for t in left.get_yticklabels()] == names
    assert "does not apply" in [t.get_text().strip() for t in right.texts]
    assert left.get_title() == "one (n = 30)"
    titles = [ax.title for ax in figure.axes] + [figure._suptitle]
    assert not overlaps(figure, titles)


def test_scores_below_chance_stay_in_view():
    figure = plotting.plot_scores(rows("one", ["MDM"], low=0.05))
    assert figure.axes[0].get_xlim()[0] < 0.05


def test_order_lag_map_prints_its_values():
    scores = [[0.5, 0.5], [0.6, np.nan]]
    figure = plotting.plot_order_lag_map(scores, [1, 2], [1, 4], "map", chance=0.4)
    drawn(figure)
    ax = figure.axes[0]
    assert sorted(t.get_text() for t in ax.texts) == ["0.50", "0.50", "0.60"]
    assert ax.images[0].get_clim() == (0.4, 0.6)


def test_maps_side_by_side_share_one_color_scale():
    def entry(*values):
        return {"orders": [1, 2], "lags": [1], "scores": [[v] for v in values]}

    figure = plotting.plot_order_lag_maps(
        {"easy": entry(0.97, 1.0), "hard": entry(0.6, 0.7)}
    )
    drawn(figure)
    limits = {ax.images[0].get_clim() for ax in figure.axes[:2]}
    assert limits == {(0.6, 1.0)}


def test_one_trial_more_does_not_fill_the_color_scale():
    figure = plotting.plot_order_lag_map([[0.80, 0.80], [0.80, 0.83]], [1, 2], [1, 2])
    low, high = figure.axes[0].images[0].get_clim()
    assert high == 0.83
    assert high - low == pytest.approx(0.15)


def test_style_reaches_what_is_drawn_and_leaves_nothing_behind():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = plotting.plot_scores(rows("one", ["MDM"]))
    assert figure.axes[0].title.get_weight() == "bold"
    assert figure.get_dpi() == 110
    with plotting.style():
        assert matplotlib.rcParams["savefig.dpi"] == 150
    assert dict(matplotlib.rcParams) == before


def test_tangent_plane_separates_separate_classes(rng):
    y = np.repeat(["a", "b_c"], 15)
    noise = rng.standard_normal((30, 3, 40))
    noise[y != "a", 0] *= 5
    X = noise @ noise.transpose(0, 2, 1) / 40
    points, explained = plotting.tangent_plane(X)
    assert points.shape == (30, 2)
    assert 0 < explained[1] <= explained[0] <= 1
    first = points[:, 0]
    gap = first[y == "a"].mean() - first[y != "a"].mean()
    assert abs(gap) > 4 * first[y == "a"].std()
    figure = plotting.plot_tangent_plane({"plain": X, "again": X}, y, "title")
    drawn(figure)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["a", "b c"]
    renderer = figure.canvas.get_renderer()
    frame = legend.get_window_extent(renderer)
    assert not any(frame.overlaps(ax.get_tightbbox(renderer)) for ax in figure.axes)
    assert all(len(ax.collections) == 2 for ax in figure.axes)


def test_figures_do_not_touch_pyplot():
    before = set(sys.modules)
    plotting.plot_scores(rows("one", ["MDM"]))
    assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_palette_is_one_of_distinct_colors():
    from matplotlib.colors import to_rgb

    colors = np.array([to_rgb(c) for c in plotting.PALETTE])
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert (distance + np.eye(len(colors)) > 0.2).all()


def test_use_style_sets_the_palette():
    import matplotlib

    with matplotlib.rc_context():
        plotting.use_style()
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        assert tuple(cycle) == plotting.PALETTE


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="viz"):
        plotting.plot_scores(rows("one", ["MDM"]))


@pytest.fixture(scope="module")
def searched():
    """A fitted search over order and lag, with one more setting."""
    from manifoldkit.datasets import make_motor_imagery_eeg
    from manifoldkit.spd import make_acm_classifier

    data = make_motor_imagery_eeg(n_epochs=24, n_channels=4, random_state=0)
    search = make_acm_classifier(
        "auto",
        "auto",
        classifier="svm",
        cv=2,
        orders=[1, 2, 3],
        lags=[2, 5],
        param_grid={"classifier__C": [0.1, 1.0]},
        random_state=0,
    )
    return search.fit(data.X, data.y), data


def test_map_of_a_fitted_search(searched):
    search, _ = searched
    figure = plotting.plot_order_lag_map(search, title="searched")
    drawn(figure)
    ax = figure.axes[0]
    values = ax.images[0].get_array()
    assert values.shape == (3, 2)
    results = search.cv_results_
    for i, order in enumerate([1, 2, 3]):
        for j, lag in enumerate([2, 5]):
            own = [
                score
                for params, score in zip(
                    results["params"], results["mean_test_score"], strict=True
                )
                if params["augmented__order"] == order
                and (order == 1 or params["augmented__lag"] == lag)
            ]
            assert values[i, j] == max(own)
    best = search.best_params_
    (x,), (y,) = ax.lines[0].get_data()
    assert [2, 5][int(x)] == best["augmented__lag"]
    assert [1, 2, 3][int(y)] == best["augmented__order"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "5"]


def test_map_of_a_search_over_one_of_the_two(searched):
    from manifoldkit.spd import make_acm_classifier

    _, data = searched
    search = make_acm_classifier("auto", 3, cv=2, orders=[1, 2], classifier="mdm")
    figure = plotting.plot_order_lag_map(search.fit(data.X, data.y))
    assert figure.axes[0].images[0].get_array().shape == (2, 1)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "3"


def test_map_of_our_selection(searched):
    from manifoldkit.spd import select_delay_embedding

    _, data = searched
    options = {"max_order": 2, "max_lag": 2, "random_state": 0, "classifier": "mdm"}
    chosen = select_delay_embedding(data.X, "grid", y=data.y, **options)
    figure = plotting.plot_order_lag_map(chosen)
    scores = chosen.curves["score"][2]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), scores)
    other = select_delay_embedding(data.X, "bic", max_order=2)
    with pytest.raises(ValueError, match="a choice by 'bic' has no score"):
        plotting.plot_order_lag_map(other)


def test_map_refuses_what_is_no_search(searched):
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    search, data = searched
    with pytest.raises(TypeError, match="GridSearchCV, which is not fitted"):
        plotting.plot_order_lag_map(clone(search))
    with pytest.raises(TypeError, match="expected both of them"):
        plotting.plot_order_lag_map([[0.5]], [1])
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\)"):
        plotting.plot_order_lag_map([[0.5]], [1], [1, 2])
    other = GridSearchCV(search.best_estimator_, {"classifier__C": [1.0]}, cv=2)
    with pytest.raises(ValueError, match="expected a search over order or lag"):
        plotting.plot_order_lag_map(other.fit(data.X, data.y))
