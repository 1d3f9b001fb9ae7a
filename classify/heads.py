"""The heads by name."""

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
