import numpy as np
import pytest
from scipy.special import log_softmax

from classify.mlp import MLPHead
from classify.network import Networks, Recipe, _Backward, _parts, _Watch, train
from data.errors import HeadError


def rings(n=300, seed=0):
    """Return points of two classes that no straight line tells apart, (n, 2) float32."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 1.5 * y + 0.2 * rng.normal(size=n)
    return (radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32), y


def same(a, b):
    return a.state().keys() == b.state().keys() and all(np.array_equal(a.state()[k], b.state()[k]) for k in a.state())


@pytest.mark.parametrize("hidden", [32, (32,), [32, 16]])
def test_it_learns_what_no_linear_head_can(hidden):
    X, y = rings()
    head = MLPHead(hidden=hidden, epochs=100, alpha=0.01, dropout=0.1).fit(X, y)
    assert head.score(*rings(seed=1)) > 0.95


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_the_gradient_is_that_of_the_weighted_cross_entropy(hidden):
    rng = np.random.default_rng(0)
    networks = Networks((3, *hidden, 4), 2)
    networks.flat[:] = rng.normal(size=len(networks.flat))
    X, targets = rng.normal(size=(9, 3)).astype(np.float32), rng.dirichlet(np.ones(4), size=9).astype(np.float32)
    counts = rng.uniform(0, 2, size=(2, 9)).astype(np.float32)
    backward = _Backward(networks, 9, 0.0, rng)
    backward(X, targets, counts)

    shapes = [array.shape for array in networks.weights + networks.biases]

    def loss(flat):
        parts = np.split(flat, np.cumsum([np.prod(shape) for shape in shapes])[:-1])
        layers = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        total = 0.0
        for i in range(2):
            mine = slice(i * hidden[0], (i + 1) * hidden[0])
            z = X @ weights[0][:, mine] + biases[0][mine]
            for w, b in zip(weights[1:], biases[1:], strict=True):
                z = np.maximum(z, 0) @ w[i] + b[i]
            total -= (counts[i] * (targets * log_softmax(z, axis=1)).sum(axis=1)).sum() / 9
        return total

    flat = networks.flat.astype(np.float64)
    steps = 1e-6 * np.eye(len(flat))
    slopes = np.array([(loss(flat + step) - loss(flat - step)) / 2e-6 for step in steps])
    np.testing.assert_allclose(backward.gradient.flat, slopes, atol=1e-5)


def test_dropout_drops_a_share_of_the_units_and_keeps_their_mean():
    networks = Networks((1, 1000, 2), 1)
    networks.weights[0][:] = 1
    backward = _Backward(networks, 8, 0.25, np.random.default_rng(0))
    backward(np.ones((8, 1), dtype=np.float32), np.full((8, 2), 0.5, dtype=np.float32), np.ones((1, 8), np.float32))
    values = backward.first[0]
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.23 < (values == 0).mean() < 0.27


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_order_of_the_pictures_does_not_matter(early_stopping):
    X, y = rings()
    order = np.random.default_rng(1).permutation(300)
    heads = [MLPHead(hidden=8, early_stopping=early_stopping).fit(X[o], y[o]) for o in (np.arange(300), order)]
    assert same(*heads)


def test_copies_are_one_picture_of_their_weight_bit_for_bit():
    X, y = rings()
    times = np.random.default_rng(1).integers(0, 4, size=300)
    copied = MLPHead(hidden=8).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    assert same(copied, MLPHead(hidden=8).fit(X, y, sample_weight=times))


def test_each_network_is_stopped_on_another_tenth_of_each_class():
    y = np.repeat([0, 1, 2], [100, 37, 4])
    content = np.arange(141)
    content[1] = content[100] = 0  # copies, one of them of another class
    parts = _parts(content, y, 3, np.random.default_rng(0))
    assert set(parts.tolist()) == {*range(10), -1}
    for part in range(10):
        assert 9 <= (parts[y == 0] == part).sum() <= 12
        assert 3 <= (parts[y == 1] == part).sum() <= 5
    assert (parts[y == 2] == -1).all()  # too few of them to spare one
    assert parts[0] == parts[1] == parts[100]


def test_no_network_holds_out_more_than_is_needed():
    parts = _parts(np.arange(50_000), np.arange(50_000) % 2, 2, np.random.default_rng(0))
    assert np.bincount(parts).max() <= 2000


def test_the_best_parameters_are_kept_network_by_network():
    networks = Networks((1, 1, 2), 2)
    X, y, shares = np.ones((4, 1), dtype=np.float32), np.zeros(4, dtype=np.intp), np.full(4, 0.25)
    watch = _Watch(networks, [(X, y, shares)] * 2, patience=2)
    over, seen = [], []
    for margins in ([1.0, 0.0], [3.0, 2.0], [2.0, 5.0], [1.0, 4.0], [0.0, 3.0]):
        networks.biases[1][:, 0, 0] = margins  # the larger, the surer of the right class
        over.append(watch.is_over())
        seen.append(watch.best.biases[1][:, 0, 0].tolist())
    assert seen == [[1, 0], [3, 2], [3, 5], [3, 5], [3, 5]]
    assert over == [False, False, False, False, True]


def test_stopping_early_ends_before_the_last_epoch_and_does_not_overfit():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 50)).astype(np.float32), np.arange(200) % 2  # nothing to learn
    fresh = rng.normal(size=(500, 50)).astype(np.float32)
    sure = [
        MLPHead(early_stopping=early, alpha=0.0, epochs=60).fit(X, y).predict_proba(fresh).max(axis=1).mean()
        for early in (True, False)
    ]
    assert sure[0] < sure[1] - 0.1


def test_the_scores_are_the_logarithm_of_the_mean_probability():
    X, y = rings()
    rng = np.random.default_rng(0)
    networks = train(X, y.astype(np.intp), None, 2, Recipe((8, 4), 3, 0.1, 0.0, 1e-2, 5, 5, True, 0.0), rng)
    head = MLPHead()
    arrays = {f"coefs_{i}": w for i, w in enumerate(networks.weights)}
    head.restore(arrays | {f"intercepts_{i}": b for i, b in enumerate(networks.biases)}, 2, 1.0)
    each = np.stack([np.exp(log_softmax(networks.outputs_of(i, X), axis=1)) for i in range(3)])
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(np.exp(head.scores(X)), each.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("params", [{"hidden": 3}, {"hidden": (7, 2), "n_seeds": 1}, {"hidden": [3, 5], "n_seeds": 12}])
def test_arrays_alone_rebuild_any_shape(params):
    X, y = rings()
    head, other = MLPHead(**params, epochs=2).fit(X, y), MLPHead()
    other.restore(head.state(), 2, 1.0)
    assert np.array_equal(other.predict_proba(X), head.predict_proba(X))
    assert other.n_features_in_ == 2
    assert all(array.dtype == np.float32 for array in head.state().values())


@pytest.mark.parametrize("k", [2, 3])
def test_heads_of_one_network_as_the_first_ones_were_are_read(k):
    rng = np.random.default_rng(0)
    outputs = 1 if k == 2 else k
    first, last = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(8, outputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    old = {"hidden_": first, "hidden_bias_": np.ones(8, np.float32), "output_": last, "output_bias_": bias}
    head, X = MLPHead(), rng.normal(size=(6, 5)).astype(np.float32)
    head.restore(old, k, 0.7)
    z = np.maximum(X @ first + 1, 0) @ last + bias
    z = np.hstack([-z / 2, z / 2]) if k == 2 else z
    np.testing.assert_allclose(head.predict_proba(X), np.exp(log_softmax(0.7 * z, axis=1)), atol=1e-6)


def test_smoothed_labels_make_it_less_sure():
    X, y = rings()
    sure = [
        MLPHead(label_smoothing=s, learning_rate=2e-2, alpha=0.0, early_stopping=False).fit(X, y).predict_proba(X)
        for s in (0.0, 0.3)
    ]
    assert np.median(sure[0].max(axis=1)) > 0.97
    assert 0.8 < np.median(sure[1].max(axis=1)) < 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden": 0}, r"^hidden must be the units of one or two layers, such as 64 or 64,32, not 0$"),
        ({"hidden": (8, 8, 8)}, r"^hidden must be .*, not \(8, 8, 8\)$"),
        ({"hidden": ()}, r"^hidden must be .*, not \(\)$"),
        ({"hidden": "wide"}, r"^hidden must be .*, not wide$"),
        ({"n_seeds": 0}, r"^n_seeds must be a whole number above 0, not 0$"),
        ({"epochs": 2.5}, r"^epochs must be a whole number above 0, not 2\.5$"),
        ({"dropout": 1.0}, r"^dropout must be a number from 0 to below 1, not 1\.0$"),
        ({"label_smoothing": "much"}, r"^label_smoothing must be a number from 0 to below 1, not much$"),
        ({"alpha": -1}, r"^alpha must be a number 0 or more, not -1$"),
        ({"learning_rate": 0}, r"^learning_rate must be a number above 0, not 0$"),
    ],
)
def test_values_that_make_no_network_are_refused(params, message):
    with pytest.raises(HeadError, match=message):
        MLPHead(**params).fit(*rings(20))
