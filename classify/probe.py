"""A linear probe as plain arrays, for whoever starts a network's last layer from it."""

from classify.artifact import fold
from classify.head import Floats, LinearHead
from classify.selection import train
from data.errors import HeadError
from data.store import Samples


def fit_probe(samples: Samples, seed: int = 0) -> tuple[Floats, Floats]:
    """Fit logistic regression, C by cross-validation, and fold its scaler in.

    Parameters
    ----------
    samples : Samples
        n training pictures of k classes.
    seed : int
        Of the folds.

    Returns
    -------
    weight : ndarray of shape (k, d), float64
        For raw vectors.
    bias : ndarray of shape (k,), float64

    Raises
    ------
    HeadError
        If a class has no picture.
    """
    training = train("lr", samples, seed=seed)
    if not isinstance(training.head, LinearHead):
        raise HeadError("lr is no linear head")
    return fold(training.head, training.scaler)
