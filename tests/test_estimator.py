"""A head belongs to scikit-learn's family without importing it: what its base classes would give is all there."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from conftest import ROOT
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier, is_regressor
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from classify.estimator import Estimator
from classify.heads import HEADS

every_kind = pytest.mark.parametrize("kind", HEADS)


class Theirs(ClassifierMixin, BaseEstimator):
    """The same estimator, inheriting as scikit-learn has it."""

    def __init__(self, depth=2, *, names=("a",), weight=None):
        self.depth = depth
        self.names = names
        self.weight = weight

    def fit(self, X, y, sample_weight=None):
        self.classes_, self.answer_ = np.unique(y), y[0]
        return self

    def predict(self, X):
        return np.full(len(X), self.answer_)


class Ours(Estimator):
    __init__, fit, predict = Theirs.__init__, Theirs.fit, Theirs.predict


Ours.__name__ = Theirs.__name__


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def clouds(n=60, k=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    return (rng.normal(size=(k, 5))[y] * 2 + rng.normal(size=(n, 5))).astype(np.float32), y


@pytest.mark.parametrize("settings", [{}, {"depth": 3}, {"names": tuple("abcdefgh" * 30), "weight": {0: 1.5}}])
def test_parameters_and_their_display_are_those_of_scikit_learn(settings):
    ours, theirs = Ours(**settings), Theirs(**settings)
    assert ours.get_params() == theirs.get_params()
    assert list(ours.get_params()) == list(theirs.get_params())
    assert repr(ours) == repr(theirs)
    for display in ("diagram", "text"):
        with sklearn.config_context(display=display, print_changed_only=False):
            assert repr(ours) == repr(theirs)
            assert hasattr(ours, "_repr_html_") == hasattr(theirs, "_repr_html_")
            assert ours._repr_mimebundle_().keys() == theirs._repr_mimebundle_().keys()
    assert "depth" in Ours()._repr_html_()


def test_parameters_are_set_by_name_or_refused_in_scikit_learns_words():
    ours = Ours()
    assert ours.set_params(depth=5, weight=1) is ours
    assert (ours.depth, ours.weight) == (5, 1)
    for one in (Ours(), Theirs()):
        with pytest.raises(
            ValueError, match=r"^Invalid parameter 'width' for estimator Theirs\(\)\. Valid parameters are"
        ):
            one.set_params(width=1)
    with pytest.raises(AttributeError, match=r"^'Theirs' object has no attribute 'width'$"):
        _ = Ours().width


@every_kind
def test_a_head_is_of_the_family_before_and_after_it_is_asked_for_anything(kind):
    head = HEADS[kind]()
    assert type(head) is HEADS[kind]
    assert isinstance(head, BaseEstimator)
    assert isinstance(head, ClassifierMixin)
    assert is_classifier(head)
    assert not is_regressor(head)
    assert isinstance(head, HEADS[kind])
    assert type(head).__name__ == clone(head).__class__.__name__ == HEADS[kind].__name__
    assert repr(head) == f"{HEADS[kind].__name__}()"


@every_kind
@pytest.mark.parametrize("asked", [False, True])
def test_a_fitted_head_is_copied_and_pickled(kind, asked):
    X, y = clouds()
    head = HEADS[kind]().fit(X, y)
    if asked:  # it is of another class then, which has no name to be found by
        assert 0 < head.score(X, y) <= 1
    for other in (copy.copy(head), copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert isinstance(other, HEADS[kind])
        assert np.array_equal(other.predict_proba(X), head.predict_proba(X))
        assert other.get_params() == head.get_params()
    assert not hasattr(clone(head), "classes_")


def test_the_score_is_the_accuracy_with_or_without_weights():
    X, y = clouds()
    head, weights = HEADS["lr"](C=1e-4).fit(X[:40], y[:40]), np.arange(60.0)
    assert head.score(X, y) == accuracy_score(y, head.predict(X))
    assert head.score(X, y, weights) == accuracy_score(y, head.predict(X), sample_weight=weights)
    several = np.stack([y == 0, y > 0, X[:, 0] > 0], axis=1).astype(int)
    head = HEADS["ridge"]().fit(X, several)
    assert head.score(X, several) == (head.predict(X) == several).all(axis=1).mean()


def test_heads_serve_in_searches_pipelines_and_votes():
    X, y = clouds()
    pipeline = make_pipeline(StandardScaler(), HEADS["lr"]())
    search = GridSearchCV(pipeline, {"logistichead__C": [1e-6, 1.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"logistichead__C": 1.0}
    assert "LogisticHead(C=1.0)" in repr(search.best_estimator_)
    assert cross_val_score(HEADS["svm"](), X, y, cv=3).min() > 0.5
    votes = VotingClassifier([("lr", HEADS["lr"](C=1.0)), ("lda", HEADS["lda"]())], voting="soft").fit(X, y)
    assert votes.set_params(lr__C=0.5).get_params()["lr__C"] == 0.5
    assert votes.score(X, y) > 0.8


def test_a_request_for_weights_is_kept_copied_and_pickled(routing):
    head = HEADS["lr"]()
    assert head.set_fit_request(sample_weight=True) is head
    head.set_score_request(sample_weight="importance")
    want = Theirs().set_fit_request(sample_weight=True).set_score_request(sample_weight="importance")
    for one in (head, clone(head), copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert str(get_routing_for_object(one)) == str(get_routing_for_object(want))
    assert str(HEADS["lr"]().get_metadata_routing()) == str(Theirs().get_metadata_routing())
    with pytest.raises(TypeError, match="Unexpected args"):
        HEADS["lr"]().set_fit_request(colour=True)
    assert not hasattr(head, "set_predict_request")


def test_weights_are_routed_to_a_head_inside_a_search(routing):
    X, y = clouds()
    weights = (y != 2).astype(float)  # without its weight a class is absent
    head = HEADS["lr"]().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    search = GridSearchCV(make_pipeline(scaler, head), {"logistichead__C": [1.0]}, cv=3)
    assert search.fit(X, y, sample_weight=weights).best_estimator_.classes_.tolist() == [0, 1]
    undecided = GridSearchCV(
        make_pipeline(scaler, HEADS["lr"]()), {"logistichead__C": [1.0]}, cv=3, error_score="raise"
    )
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match=r"LogisticHead\.set_fit_request"):
        undecided.fit(X, y, sample_weight=weights)


def test_requests_are_refused_where_routing_is_off():
    with pytest.raises(RuntimeError, match="metadata routing"):
        HEADS["lr"]().set_fit_request(sample_weight=True)


@every_kind
@pytest.mark.parametrize(
    "spoil",
    [
        lambda X, y: (np.where(np.arange(X.size).reshape(X.shape) == 7, np.nan, X).astype(np.float32), y),
        lambda X, y: (np.where(np.arange(X.size).reshape(X.shape) == 7, np.inf, X).astype(np.float32), y),
        lambda X, y: (X[:, :, None], y),
        lambda X, y: (X[:, :0], y),
        lambda X, y: (X[:0], y[:0]),
        lambda X, y: (X[:-1], y),
        lambda X, y: (X, y + 0.5),
        lambda X, y: (X, y[:, None, None]),
    ],
    ids=["nan", "inf", "3-d", "no columns", "no rows", "a row less", "no classes", "labels of rows of rows"],
)
def test_what_is_not_plain_is_refused_in_scikit_learns_words(kind, spoil):
    with pytest.raises(ValueError, match=r"NaN|infinity|dim|feature|sample|inconsistent|label|shape"):
        HEADS[kind]().fit(*spoil(*clouds()))


@every_kind
def test_what_is_asked_must_have_the_columns_of_what_was_learnt(kind):
    X, y = clouds()
    head = HEADS[kind]().fit(X, y)
    for wrong in (X[:, :4], np.full_like(X, np.nan)):
        with pytest.raises(ValueError, match=r"features|NaN"):
            head.predict_proba(wrong)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        HEADS[kind]().predict(X)
    assert np.array_equal(head.predict_proba(X.tolist()), head.predict_proba(X))
    assert np.array_equal(HEADS[kind]().fit(X.tolist(), y.tolist()).predict_proba(X), head.predict_proba(X))


def test_rows_that_need_no_check_need_no_scikit_learn():
    code = """if True:
        import sys, numpy as np
        from classify.heads import HEADS
        rng = np.random.default_rng(0)
        y = np.arange(60) % 3
        X = (rng.normal(size=(3, 5))[y] + rng.normal(size=(60, 5))).astype(np.float32)
        for kind in HEADS:
            for class_weight in (None, "balanced"):
                head = HEADS[kind](class_weight=class_weight).fit(X, y)
                head.predict_proba(X), head.decision_function(X), head.get_params(), isinstance(head, int)
                assert "sklearn" not in sys.modules, (kind, class_weight)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
