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

from classify.bayes import BayesHead
from classify.head import Head
from classify.linear import CentroidHead, LDAHead, LogisticHead, RidgeHead, SVMHead
from classify.mlp import MLPHead
from classify.neighbours import KNNHead

HEADS: dict[str, type[Head]] = {
    "lr": LogisticHead,
    "svm": SVMHead,
    "mlp": MLPHead,
    "knn": KNNHead,
    "bayes": BayesHead,
    "centroid": CentroidHead,
    "ridge": RidgeHead,
    "lda": LDAHead,
}
