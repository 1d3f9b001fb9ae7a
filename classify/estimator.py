"""What makes a class an estimator of scikit-learn's without importing it: it joins the family when it is asked to.

Importing scikit-learn takes longer than most fits here, and the command line needs none of it. So our estimators have
parameters of their own accord; everything else that `BaseEstimator` and `ClassifierMixin` give (tags, score, metadata
routing, the display in a notebook) they inherit in the moment when somebody wants it.
"""

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Self


class Estimator:
    """A classifier by scikit-learn's contract, whose parameters are the arguments of its constructor.

    The methods here that need scikit-learn's make the instance one of `joined(type(self))`, which has those classes
    among its bases. That is also what it gives for its class once scikit-learn is imported: ``isinstance(head,
    BaseEstimator)`` holds always, since nobody can ask it before.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, sorted; `deep` changes nothing, since none of them is an estimator."""
        cls: Any = type(self)
        return {name: getattr(self, name) for name in _parameters(cls)}

    def set_params(self, **params: Any) -> Self:
        """Set some of the parameters.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        self._inherited().set_params(**params)
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of right answers: of rows that are right in every label, where there are several."""
        return float(self._inherited().score(X, y, sample_weight))

    def get_metadata_routing(self) -> Any:
        """Return who wants a `sample_weight`, as ``set_fit_request`` and ``set_score_request`` said."""
        return self._inherited().get_metadata_routing()

    def __sklearn_tags__(self) -> Any:
        return self._inherited().__sklearn_tags__()

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return str(self._inherited().__repr__(N_CHAR_MAX))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self._inherited()._repr_mimebundle_(**kwargs)

    def __getattr__(self, name: str) -> Any:
        # these scikit-learn makes for each class by itself, or has only where its settings say so
        made = name == "_repr_html_" or (name.startswith("set_") and name.endswith("_request"))
        if made and not _is_joined(type(self)):
            self._inherited()
            return getattr(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """Take parameters, of which each class has its own."""
    else:

        @property
        def __class__(self):
            """The class; of scikit-learn's family where that is imported."""
            cls = type(self)
            return joined(cls) if "sklearn.base" in sys.modules and not _is_joined(cls) else cls

    def __reduce__(self) -> tuple[Any, ...]:
        plain = next(c for c in type(self).__mro__ if not _is_joined(c))
        return object.__new__, (plain,), self.__dict__

    def _inherited(self) -> Any:
        """Join scikit-learn's family and return what its classes make of this instance."""
        cls: Any = type(self)
        if not _is_joined(cls):
            _CLASS.__set__(self, joined(cls))
        return super()


# what sets the class of an instance, which the property above hides
_CLASS: Any = object.__dict__["__class__"]


@functools.cache
def joined(plain: Any) -> type:
    """Return a class of the same name that has scikit-learn's bases after all those of `plain`."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    own: dict[str, Any] = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    # scikit-learn's printer knows its own by this method
    own |= {"__repr__": BaseEstimator.__repr__, "_is_joined": True}
    return type(plain.__name__, (plain, ClassifierMixin, BaseEstimator), own)


def _is_joined(cls: type) -> bool:
    return "_is_joined" in vars(cls)


@functools.cache
def _parameters(cls: Any) -> tuple[str, ...]:
    return tuple(sorted(name for name in inspect.signature(cls).parameters))
