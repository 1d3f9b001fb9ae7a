"""The heads by name.

Examples
--------
>>> from data.store import FeatureStore
>>> store = FeatureStore("features.h5")
>>> train, test = store.load("train"), store.load("test")
>>> head = HEADS["lr"](C=0.1).fit(train.X, train.y)
>>> head.score(test.X, test.y)
1.0
>>> head.predict_proba(test.X).shape
(12, 3)
"""

from typing import Any

from classify.bayes import BayesHead
from classify.head import Head
from classify.head2toe import Head2ToeHead
from classify.linear import CentroidHead, LDAHead, LogisticHead, RidgeHead, SVMHead
from classify.mlp import MLPHead
from classify.neighbours import KNNHead
from classify.stack import StackHead
from data.store import Samples

HEADS: dict[str, type[Head]] = {
    "lr": LogisticHead,
    "svm": SVMHead,
    "mlp": MLPHead,
    "knn": KNNHead,
    "bayes": BayesHead,
    "centroid": CentroidHead,
    "ridge": RidgeHead,
    "lda": LDAHead,
    "stack": StackHead,
    "head2toe": Head2ToeHead,
}

# Parameters that the training set decides.
GIVEN = ("class_weight", "random_state", "widths", "views")


def given_by(samples: Samples, kind: str) -> dict[str, Any]:
    """Return the parameters of a head that the training set decides: the widths of its features, how many views."""
    given = {"widths": samples.widths, "views": 1 + len(samples.others)}
    return {name: value for name, value in given.items() if name in HEADS[kind]().get_params()}
