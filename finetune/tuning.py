"""Fine-tuning one network on one set of pictures, from the files to a checkpoint."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from data.errors import TrainingError
from data.images import ImageSet
from data.spec import FeatureSpec
from data.splits import SplitRule
from data.store import FeatureStore, Samples
from extract.backbones import DEFAULT_BACKBONE
from extract.checkpoints import read_checkpoint
from extract.options import PENULTIMATE, Options
from extract.results import Progress
from extract.wanted import Wanted
from finetune.beginnings import LastLayer, LinearStart, shared_rows
from finetune.cached import CACHE_LIMIT, Behind, Cut, find_cut
from finetune.checkpoint import refuse_overwrite, save_checkpoint
from finetune.costs import cost_in_pictures
from finetune.course import Course, Source
from finetune.devices import Runner
from finetune.epochs import Epoch, Trained
from finetune.keeping import Keeper
from finetune.pictures import Inputs
from finetune.results import Array, Tuning
from finetune.roster import Parts, Roster, divide, roster_of_images, roster_of_store
from finetune.strategies import Strategy
from finetune.surgery import Operated, depths_of, freeze, operate, set_last_layer
from finetune.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Ready:
    """A network and pictures before any training: what trainings share that differ in what they freeze alone.

    Parameters
    ----------
    strategy : Strategy
        With nothing left open.
    roster : Roster
    parts : Parts
    operated : Operated
        With a last layer as training finds it.
    given : LastLayer or None
        What that started from, if it did not start at random.
    pixels : Inputs
        Feeds the whole network.
    keeper : Keeper
        Has what frozen stages give.
    notes : list of str
        What the user should know.
    """

    strategy: Strategy
    roster: Roster
    parts: Parts
    operated: Operated
    given: LastLayer | None
    pixels: Inputs
    keeper: Keeper
    notes: list[str]


@dataclasses.dataclass
class Tuner:
    """Fine-tunes a network.

    Parameters
    ----------
    source : ImageSet or FeatureStore
        Pictures, or a store that lists them and keeps the activations of frozen stages.
    output : Path
        Of the checkpoint.
    strategy : Strategy
        How.
    backbone, weights, options, partial
        As for `extract.backbones.open_backbone`; `weights` do not matter from scratch. Where they are a checkpoint,
        its network and its preprocessing count unless others are named.
    dataset : str, optional
        Image set, where the store has several.
    rule : SplitRule, optional
        Split pictures anew.
    on : str, optional
        Split to measure on.
    device : str
        As for `extract.engines.choose_device`.
    workers : int
        Threads that decode; 0 takes one a core.
    cache : bool
        Whether activations of frozen stages may be kept.
    init : str
        A key of `finetune.beginnings.INITS`: what the last layer starts from.
    start : LinearStart, optional
        Fitted head that ``lp-ft`` starts from.
    probe : callable, optional
        Fits one for ``lp-ft`` from penultimate features of the training pictures, and returns weight (k, dim) and
        bias (k,).
    on_progress, on_picture, on_step, on_epoch, on_resume, on_note : callable, optional
        Told of extracted pictures (`extract.results.Progress`), of pictures looked at, steps and epochs, of the epochs
        that an earlier run has done, and of each note as soon as it is known.
    """

    source: ImageSet | FeatureStore
    output: Path
    strategy: Strategy
    backbone: str = ""
    weights: str = "default"
    options: Options = dataclasses.field(default_factory=Options)
    partial: bool = False
    dataset: str | None = None
    rule: SplitRule | None = None
    on: str | None = None
    device: str = "auto"
    workers: int = 0
    cache: bool = True
    init: str = "auto"
    start: LinearStart | None = None
    probe: Callable[[Samples], tuple[Array, Array]] | None = None
    on_progress: Callable[[Progress], None] | None = None
    on_picture: Callable[[int, int, int], None] | None = None
    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_resume: Callable[[list[Epoch]], None] | None = None
    on_note: Callable[[str], None] | None = None

    def run(self) -> Tuning:
        """Train, measure and write the checkpoint.

        Raises
        ------
        PenultError
            If the pictures, the network, the strategy or the disk refuse; finished epochs are kept.
        """
        began = time.perf_counter()
        runner = Runner(self.device, self.strategy.precision)
        ready = self.prepare()
        strategy, roster, parts = ready.strategy, ready.roster, ready.parts
        cut = self.cut(ready, strategy.frozen(len(ready.operated.stages)))
        extracted = self.keep(ready, [cut])
        ready.notes.extend(filter(None, [cut.why]))
        for note in ready.notes:
            self._tell(note)
        trainer = self._trainer(ready, cut, runner)
        before = self._before(ready, trainer)
        trained = trainer.run()
        scores = trainer.scores(parts.measure)
        saved = ready.keeper.saved_seconds(cut.layer, len(roster), extracted)
        spec = self.save(ready, strategy, trained)
        trainer.finish()
        ready.keeper.forget()
        done = len(trained.epochs)
        passes = {
            "extracted": extracted,
            "trained": done * len(parts.train),
            "measured": done * len(parts.choose) + len(parts.measure),
        }
        return Tuning(
            checkpoint=self.output,
            strategy=strategy,
            backbone=ready.operated.spec.backbone,
            fingerprint=spec.fingerprint,
            n_stages=len(ready.operated.stages),
            frozen=cut.frozen,
            parts=parts,
            classes=roster.classes,
            targets=roster.targets[parts.measure],
            scores=scores,
            before=before,
            epochs=trained.epochs,
            kept=trained.kept,
            resumed=trained.resumed,
            passes=passes,
            cost=cost_in_pictures(ready.operated, cut, len(roster) * len(ready.keeper.views), passes),
            seconds=time.perf_counter() - began,
            saved_seconds=saved,
            cached=cut.layer,
            skipped=roster.skipped,
            notes=ready.notes,
        )

    def prepare(self) -> Ready:
        """Read the pictures and open the network, with the last layer that training starts from.

        Raises
        ------
        PenultError
            If they, the strategy or the output refuse.
        """
        strategy = self.strategy
        strategy.check()
        self._refuse()
        roster = self._roster()
        parts = divide(roster, on=self.on, keep=strategy.keep, hold_out=strategy.hold_out, seed=strategy.seed)
        weights = "random" if strategy.mode == "scratch" else self.weights
        backbone, options = self.network
        operated = operate(backbone, weights, len(roster.classes), options, strategy.seed, partial=self.partial)
        pixels = Inputs(roster, operated.spec, strategy.augment, strategy.seed, self.workers, strategy.views)
        wanted = Wanted(backbone, weights, options, strategy.seed if weights == "random" else 0, partial=self.partial)
        source = (self.source, self.dataset, self.rule)
        keeper = Keeper(*source, wanted, strategy, self.output, self.device, self.on_progress)
        ready = Ready(strategy, roster, parts, operated, None, pixels, keeper, [*roster.notes, *operated.report])
        given = self._beginning(ready)
        if given:
            set_last_layer(operated.network, given.weight, given.bias, given.rows)
            ready.notes.extend(given.report)
        settled = strategy.settled(known=given is not None and given.complete)
        return dataclasses.replace(ready, strategy=settled, given=given)

    def cut(self, ready: Ready, frozen: int, room: int = CACHE_LIMIT) -> Cut:
        """Say where the network is cut if `frozen` stages are not trained and activations may take `room` bytes."""
        if not self.cache:
            return Cut(frozen)
        if frozen and self.strategy.mixup:
            # what stages give of a mixed picture is not the mixture of what they give
            return Cut(frozen, why="mixup makes new pictures in every step: --mixup 0 lets the frozen stages run once")
        return find_cut(ready.operated, frozen, len(ready.keeper.views), len(ready.roster), room)

    def keep(self, ready: Ready, cuts: Sequence[Cut]) -> int:
        """Let the network, before training, run once up to all cuts; return passes: pictures in all their views."""
        layers = [cut.layer for cut in cuts if cut.layer]
        return ready.keeper.extract(ready.operated, layers, ready.keeper.views) if layers else 0

    def course(self, ready: Ready, cut: Cut) -> Course:
        """Freeze what comes before a cut that was kept, and return what is to be trained."""
        operated, parts = ready.operated, ready.parts
        source: Source = ready.pixels
        path: torch.nn.Module = operated.network
        if cut.layer:
            source = ready.keeper.open(cut.layer, ready.roster)
            path = Behind(cut.rest, operated.network)
        return Course(
            network=operated.network,
            path=path,
            freezing=freeze(operated, cut.frozen, ready.strategy.norm == "kept"),
            depths=depths_of(operated),
            n_stages=len(operated.stages),
            source=source,
            targets=ready.roster.targets,
            train=parts.train,
            choose=parts.choose,
        )

    def request(self, ready: Ready) -> str:
        """Name everything that decides the result, so that only the same training is taken up again."""
        given = ready.given
        facts = {
            "strategy": dataclasses.asdict(ready.strategy),
            "spec": ready.operated.spec.canonical_json(),
            "pictures": ready.roster.identity,
            "on": self.on or "",
            "last": hashlib.sha256(given.weight.tobytes() + given.bias.tobytes()).hexdigest() if given else "",
        }
        return json.dumps(facts, sort_keys=True)

    def save(self, ready: Ready, strategy: Strategy, trained: Trained) -> FeatureSpec:
        """Write the checkpoint of a network that was trained; return what its penultimate vectors are."""
        roster, parts = ready.roster, ready.parts
        ready.operated.network.cpu()
        facts = {
            "classes": roster.classes,
            "weights_before": ready.operated.spec.weights,
            "strategy": dataclasses.asdict(strategy),
            "trained_on": {
                "dataset": roster.name,
                "split": "train",
                "n": len(parts.train),
                "identity": roster.identity,
            },
            "epochs": [epoch.without_time() for epoch in trained.epochs],
            "kept_epoch": trained.kept,
        }
        seen = np.concatenate([parts.train, parts.choose])
        return save_checkpoint(self.output, ready.operated, facts, roster.digests[seen])

    @functools.cached_property
    def network(self) -> tuple[str, Options]:
        """The network's name and the preprocessing: a checkpoint's own, unless others were named."""
        asked = read_checkpoint(Path(self.weights)) if Path(self.weights).is_file() else None
        if asked is None:
            return self.backbone or DEFAULT_BACKBONE, self.options
        return self.backbone or asked.spec.backbone, asked.options(self.options)

    def _refuse(self) -> None:
        """Raise for what would fail after hours of training, or contradicts itself."""
        refuse_overwrite(self.output)
        if Path(self.weights).is_file() and self.output.exists() and self.output.samefile(self.weights):
            raise TrainingError(
                f"{self.output} is what training starts from and would be replaced: name another file with -o"
            )
        if self.init == "rows" and self.strategy.mode in ("scratch", "lp-ft"):
            raise TrainingError(
                f"--init rows starts the last layer from the old one's rows, and --mode {self.strategy.mode} from "
                "something else: leave out --init"
            )

    def _tell(self, note: str) -> None:
        if self.on_note:
            self.on_note(note)

    def _roster(self) -> Roster:
        if not isinstance(self.source, FeatureStore):
            return roster_of_images(self.source, self.rule, self.on_picture)
        if self.rule is not None:
            raise TrainingError(f"{self.source.path} says how its pictures are split: name the pictures to split anew")
        return roster_of_store(self.source, self.dataset)

    def _beginning(self, ready: Ready) -> LastLayer | None:
        """Return what the last layer starts from; None where it is random."""
        spec, classes, mode = ready.operated.spec, ready.roster.classes, self.strategy.mode
        if mode == "lp-ft":
            start = self.start or self._fitted(ready)
            return start.for_classes(classes, spec.fingerprint, spec.backbone)
        if self.start is not None:
            raise TrainingError(f"--start is for --mode lp-ft: got {self.start.name} and {mode}")
        return None if mode == "scratch" else shared_rows(self.network[0], self.weights, classes, self.init)

    def _fitted(self, ready: Ready) -> LinearStart:
        """Return a head that is fitted on what the network, before training, gives of the training pictures."""
        if self.probe is None:
            raise TrainingError("lp-ft starts from a fitted head: name one with --start HEAD")
        roster, rows, spec = ready.roster, ready.parts.train, ready.operated.spec
        ready.keeper.extract(ready.operated, [PENULTIMATE], ("center",))
        samples = Samples(
            X=ready.keeper.open(PENULTIMATE, roster).vectors[0][rows],
            y=roster.targets[rows].astype(np.int32),
            classes=roster.classes,
            paths=[roster.pictures.title(row) for row in rows.tolist()],
            digests=roster.digests[rows],
            specs=(spec,),
            dataset=roster.name,
            split="train",
        )
        return LinearStart(*self.probe(samples), roster.classes, spec.fingerprint, "lr, fitted on the frozen features")

    def _trainer(self, ready: Ready, cut: Cut, runner: Runner) -> Trainer:
        course = self.course(ready, cut)
        runner.place(course.network, course.path)
        state = self.output.with_name(f"{self.output.name}.training")
        hooks = (self.on_step, self.on_epoch, self.on_resume)
        return Trainer(course, ready.strategy, runner, state, self.request(ready), *hooks)

    def _before(self, ready: Ready, trainer: Trainer) -> float | None:
        """Return, and tell, the accuracy before any training; None where the last layer knows nothing yet."""
        if not (ready.given and ready.given.complete):
            return None
        parts, rows = ready.parts, ready.parts.measure
        before = float((trainer.scores(rows).argmax(axis=1) == ready.roster.targets[rows]).mean())
        self._tell(f"before any training: accuracy {before:.4f} on {len(rows)} pictures of {parts.measured_on}")
        return before
