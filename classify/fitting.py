"""What `fit` does with one head or all: load, choose, train, measure the choice, write the head and its chart."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classify.artifact import refuse_overwrite, save_head
from classify.heads import HEADS
from classify.nested import Nested, nested
from classify.protocols import Repeats, repeat
from classify.selection import settings_of, train
from classify.solver import OnStep
from classify.statistics import wilson_interval
from classify.training import Training
from data.errors import HeadError
from data.relabel import read_corrections
from data.store import FeatureStore, Samples

OnProgress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A head that was written, and what was found on the way.

    Parameters
    ----------
    path : Path
        The head's file.
    training : Training
        How it came about.
    samples : Samples
        What it was trained on.
    repeats : Repeats or None
        Over several seeds.
    nested : Nested or None
        Cross-validation around the choice.
    chart : str or None
        The PNG that was drawn.
    corrected : dict or None
        How many labels were corrected before, see `data.relabel.Corrections.count`.
    """

    path: Path
    training: Training
    samples: Samples
    repeats: Repeats | None
    nested: Nested | None
    chart: str | None
    corrected: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `fit --json` prints."""
        found: dict[str, Any] = {
            "head": str(self.path),
            **self.training.as_json(),
            "features": [spec.title for spec in self.samples.specs],
            "n_train": len(self.samples),
            "views": 1 + len(self.samples.others),
            "chart": self.chart,
        }
        if self.corrected:
            found["corrections"] = self.corrected
        if self.repeats:
            found["repeats"] = self.repeats.as_json()
        if self.nested:
            interval = wilson_interval(self.nested.right, self.nested.n)
            found["nested"] = {
                "accuracy": self.nested.accuracy,
                "ci95": interval,
                "n": self.nested.n,
                "folds": self.nested.folds,
            }
        return found


@dataclasses.dataclass
class Fitting:
    """The settings of one `fit`.

    Parameters
    ----------
    store : str
        Path of the store.
    split, dataset, features, augment, memory
        See `data.store.FeatureStore.load`; heads that read in chunks leave what `memory` does not hold in the store.
    tune, rule, grid, params, class_weight, calibration, seed
        See `classify.selection.train`.
    nested : bool
        Measure the choice by cross-validation around it.
    repeats : int
        Train with so many seeds, from `seed` on; the head of the first is written.
    png : str, optional
        Draw what was tried.
    relabel : str, optional
        CSV of corrected labels, see `data.relabel`.
    on_progress, on_step : callable, optional
        See `classify.selection.train`.
    """

    store: str
    split: str = "train"
    dataset: str | None = None
    features: list[str] | None = None
    augment: bool = False
    memory: int | None = None
    tune: str = "cv"
    rule: str = "best"
    grid: list[float] | None = None
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_weight: str | None = None
    calibration: str = "temperature"
    seed: int = 0
    nested: bool = False
    repeats: int = 0
    png: str | None = None
    relabel: str | None = None

    on_progress: OnProgress | None = None
    on_step: OnStep | None = None

    def open(self) -> None:
        """Read what is to be trained on.

        Raises
        ------
        StoreError
            If the store cannot answer.
        """
        corrections = read_corrections(self.relabel)
        store = FeatureStore(self.store, corrections)
        self.samples = store.load(
            self.split, dataset=self.dataset, features=self.features, augment=self.augment, memory=self.memory
        ).labelled()
        self.val: Samples | None = None
        if self.tune == "val":
            left = None if self.memory is None else self.memory - 2 * self.samples.held  # of the half that load gives
            self.val = store.load("val", dataset=self.samples.dataset, spec=self.samples.specs, memory=left)
        self.corrected: dict[str, Any] | None = None
        if corrections:
            self.corrected = corrections.count(store.view(self.samples.dataset), self.split, self.store)
        held = store.features()
        self.sources = [held[spec.fingerprint].source for spec in self.samples.specs]
        self.refused: dict[str, str] = {}

    def fit(self, kind: str, output: Path) -> Fitted:
        """Train one kind of head and write it.

        Raises
        ------
        HeadError
            If it cannot be trained so, or `output` is something else than a head.
        """
        refuse_overwrite(output)
        if self.nested and self.tune == "val":
            raise HeadError("--nested is cross-validation around cross-validation: leave out --tune val")
        self._refuse_chart(kind)
        learn = functools.partial(self._train, kind)
        repeats = None
        if self.repeats:
            repeats = repeat(lambda seed: learn(self.samples, seed), range(self.seed, self.seed + self.repeats))
        training = repeats.trainings[0] if repeats else learn(self.samples, self.seed)
        around = None
        if self.nested:
            around = nested(lambda samples: learn(samples, self.seed), self.samples, seed=self.seed)
        chart = self._drawn(training)
        output.parent.mkdir(parents=True, exist_ok=True)
        save_head(
            output,
            training,
            self.samples,
            request=[source.request for source in self.sources],
            weights_file=[source.weights_file for source in self.sources],
            corrections=self.corrected,
        )
        return Fitted(output, training, self.samples, repeats, around, chart, self.corrected)

    def fit_all(self, folder: Path) -> list[Fitted]:
        """Train every kind of head into a folder; return them with the best cross-validated one first.

        A kind that cannot be trained on these features is left out, and named with the reason in `refused`.

        Raises
        ------
        HeadError
            If parameters were set, which the kinds do not share, or no kind can be trained.
        """
        if self.params or self.grid or self.png:
            raise HeadError("--param, --grid and --png are of one kind of head: name it instead of all")
        if folder.exists() and not folder.is_dir():
            raise HeadError(f"{folder} is a file, and all heads go into a folder: name another with -o")
        found = []
        for kind in HEADS:
            try:
                found.append(self.fit(kind, folder / f"{kind}.head"))
            except HeadError as error:
                self.refused[kind] = str(error)
        if not found:
            raise HeadError(next(iter(self.refused.values())))
        return sorted(found, key=lambda fitted: _held_out(fitted.training))

    def _train(self, kind: str, samples: Samples, seed: int) -> Training:
        return train(
            kind,
            samples,
            tune=self.tune,
            val=self.val,
            params=self.params,
            grid=self.grid,
            rule=self.rule,
            class_weight=self.class_weight,
            calibration=self.calibration,
            seed=seed,
            memory=self.memory,
            on_progress=self.on_progress,
            on_step=self.on_step,
        )

    def _refuse_chart(self, kind: str) -> None:
        """Raise, before anything is trained, where there would be nothing to draw."""
        settings = settings_of(kind, self.params, self.tune, self.grid)
        along = [name for name in settings[0] if len({str(setting[name]) for setting in settings}) > 1]
        if self.png and len(along) != 1:
            raise HeadError(
                f"--png draws what was tried along one parameter, and {kind} is tried along "
                f"{' and '.join(along) or 'none'}: set the others with --param, or leave out --png"
            )

    def _drawn(self, training: Training) -> str | None:
        """Draw the path, if it was asked for."""
        if self.png is None or not training.along:
            return None
        (name,) = training.along
        from classify.charts import path_chart

        path_chart(
            Path(self.png),
            [(float(c.params[name]), c.accuracy, c.deviation, c.log_loss) for c in training.candidates],
            training.chosen,
            parameter=name,
            title=f"{training.kind} on {self.samples.dataset}, {self.samples.specs[0].title}",
            one_standard_error=training.one_standard_error,
        )
        return self.png


def _held_out(training: Training) -> tuple[float, float]:
    """Return what training are ranked by: accuracy on what was held out, then log-loss."""
    if not training.candidates:
        return 1.0, 0.0
    chosen = training.candidates[training.chosen]
    return -chosen.accuracy, chosen.log_loss
