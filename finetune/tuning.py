"""Fine-tuning one network on one set of pictures, from the files to a checkpoint."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import TrainingError
from data.images import ImageSet
from data.spec import FeatureSpec
from data.splits import SplitRule
from data.store import FeatureStore, Samples
from extract.backbones import DEFAULT_BACKBONE
from extract.checkpoints import read_checkpoint
from extract.networks import Setup
from extract.options import PENULTIMATE, Options
from extract.results import Progress
from extract.wanted import Wanted
from finetune.beginnings import LastLayer, LinearStart, shared_rows
from finetune.cached import CACHE_LIMIT, Behind, Cut, extract_activations, find_cut, open_activations, views_of
from finetune.checkpoint import refuse_overwrite, save_checkpoint
from finetune.costs import BACKWARD, macs_behind
from finetune.devices import Runner
from finetune.pictures import Inputs, Parts, Roster, divide, roster_of_images, roster_of_store
from finetune.results import Array, Tuning
from finetune.strategies import Strategy
from finetune.surgery import Operated, depths_of, freeze, operate, set_last_layer
from finetune.trainer import Course, Epoch, Source, Trained, Trainer


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
    notes : list of str
        What the user should know.
    """

    strategy: Strategy
    roster: Roster
    parts: Parts
    operated: Operated
    given: LastLayer | None
    pixels: Inputs
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
        strategy, roster, parts, operated = ready.strategy, ready.roster, ready.parts, ready.operated
        cut = self.cut(ready, strategy.frozen(len(operated.stages)))
        kept, extracted = self.keep(ready, [cut])
        course = self.course(ready, cut, kept)
        notes = [*ready.notes, *filter(None, [cut.why])]
        self._tell(notes)
        state = self.output.with_name(f"{self.output.name}.training")
        hooks = (self.on_step, self.on_epoch, self.on_resume)
        trainer = Trainer(course, strategy, runner, state, self.request(ready), *hooks)
        runner.place(operated.network, course.path)
        before = None
        if ready.given and ready.given.complete:
            before = float((trainer.scores(parts.measure).argmax(axis=1) == roster.targets[parts.measure]).mean())
            self._tell(
                [f"before any training: accuracy {before:.4f} on {len(parts.measure)} pictures of {parts.measured_on}"]
            )
        trained = trainer.run()
        scores = trainer.scores(parts.measure)
        saved = self._saved_seconds(kept.get(cut.layer, ()), roster, extracted)
        spec = self.save(ready, strategy, trained)
        trainer.finish()
        self.forget()
        done = len(trained.epochs)
        passes = {
            "extracted": extracted,
            "trained": done * len(parts.train),
            "measured": done * len(parts.choose) + len(parts.measure),
        }
        macs = macs_behind(operated, [cut.frozen])
        share = macs[cut.frozen] / macs[0]  # of what has a gradient
        run = share if cut.layer else 1.0  # of what is run in every epoch
        return Tuning(
            checkpoint=self.output,
            strategy=strategy,
            backbone=operated.spec.backbone,
            fingerprint=spec.fingerprint,
            n_stages=len(operated.stages),
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
            # without activations kept, the frozen stages are run forward in every epoch
            cost=(len(roster) * len(self._views(strategy.augment)) * (1 - share) if cut.layer else 0)
            + passes["trained"] * (run + BACKWARD * share)
            + passes["measured"] * run,
            seconds=time.perf_counter() - began,
            saved_seconds=saved,
            cached=cut.layer,
            skipped=roster.skipped,
            notes=notes,
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
        ready = Ready(strategy, roster, parts, operated, None, pixels, [*roster.notes, *operated.report])
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
        n_views = len(self._views(self.strategy.augment))
        return find_cut(ready.operated, frozen, n_views, len(ready.roster), room)

    def keep(self, ready: Ready, cuts: Sequence[Cut]) -> tuple[dict[str, list[str]], int]:
        """Let the network, before training, run once up to all cuts; see `finetune.cached.extract_activations`.

        What is counted is passes: pictures in all their views.
        """
        layers, views = [cut.layer for cut in cuts if cut.layer], self._views(self.strategy.augment)
        if not layers:
            return {}, 0
        kept, computed = self._extract(ready, layers, views)
        return kept, computed * len(views)

    def course(self, ready: Ready, cut: Cut, kept: Mapping[str, Sequence[str]]) -> Course:
        """Freeze what comes before a cut, and return what is to be trained.

        Parameters
        ----------
        kept : mapping of str to sequence of str
            As `keep` gives it.
        """
        operated, parts, strategy = ready.operated, ready.parts, ready.strategy
        source: Source = ready.pixels
        path: torch.nn.Module = operated.network
        if cut.layer:
            fingerprints = kept[cut.layer]
            source = open_activations(self._store, fingerprints, ready.roster, strategy.augment, strategy.seed)
            path = Behind(cut.rest, operated.network)
        return Course(
            network=operated.network,
            path=path,
            freezing=freeze(operated, cut.frozen, strategy.norm == "kept"),
            depths=depths_of(operated),
            n_stages=len(operated.stages),
            source=source,
            targets=ready.roster.targets,
            train=parts.train,
            choose=parts.choose,
        )

    def _saved_seconds(self, fingerprints: Sequence[str], roster: Roster, passes: int) -> float:
        """Return what kept activations took that were there already, as far as the store says."""
        if not fingerprints:
            return 0.0
        held = FeatureStore(self._store).features()
        each = sum(held[fingerprint].extract_milliseconds or 0.0 for fingerprint in fingerprints)
        return each / 1000 * max(len(roster) - passes // len(fingerprints), 0)

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
            "epochs": [without_time(epoch) for epoch in trained.epochs],
            "kept_epoch": trained.kept,
        }
        seen = np.concatenate([parts.train, parts.choose])
        return save_checkpoint(self.output, ready.operated, facts, roster.digests[seen])

    def forget(self) -> None:
        """Remove activations that no store of the user's keeps."""
        if not isinstance(self.source, FeatureStore):
            self._store.unlink(missing_ok=True)

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

    def _tell(self, notes: list[str]) -> None:
        if self.on_note:
            for note in notes:
                self.on_note(note)

    def _roster(self) -> Roster:
        if isinstance(self.source, FeatureStore):
            if self.rule is not None:
                raise TrainingError(
                    f"{self.source.path} says how its pictures are split: name the pictures to split anew"
                )
            return roster_of_store(self.source, self.dataset)
        return roster_of_images(self.source, self.rule, self.on_picture)

    def _beginning(self, ready: Ready) -> LastLayer | None:
        """Return what the last layer starts from; None where it is random."""
        roster, spec, classes = ready.roster, ready.operated.spec, ready.roster.classes
        if self.strategy.mode == "lp-ft":
            start = self.start
            if start is None:
                if self.probe is None:
                    raise TrainingError("lp-ft starts from a fitted head: name one with --start HEAD")
                kept, _ = self._extract(ready, [PENULTIMATE], ("center",))
                activations = open_activations(self._store, kept[PENULTIMATE], roster, "none", self.strategy.seed)
                rows = ready.parts.train
                samples = Samples(
                    X=activations.vectors[0][rows],
                    y=roster.targets[rows].astype(np.int32),
                    classes=classes,
                    paths=[roster.pictures.title(row) for row in rows.tolist()],
                    digests=roster.digests[rows],
                    specs=(spec,),
                    dataset=roster.name,
                    split="train",
                )
                weight, bias = self.probe(samples)
                start = LinearStart(weight, bias, classes, spec.fingerprint, "lr, fitted on the frozen features")
            return start.for_classes(classes, spec.fingerprint, spec.backbone)
        if self.start is not None:
            raise TrainingError(f"--start is for --mode lp-ft: got {self.start.name} and {self.strategy.mode}")
        if self.strategy.mode == "scratch":
            return None
        return shared_rows(self.network[0], self.weights, classes, self.init)

    @property
    def _store(self) -> Path:
        """Where activations are kept."""
        if isinstance(self.source, FeatureStore):
            return self.source.path
        return self.output.with_name(f"{self.output.name}.activations.h5")

    def _views(self, augment: str) -> tuple[str, ...]:
        return views_of(augment, self.strategy.views, self.strategy.seed)

    def _extract(self, ready: Ready, layers: Sequence[str], views: tuple[str, ...]) -> tuple[dict[str, list[str]], int]:
        """Extract what the network, before training, gives at some layers."""
        backbone, options = self.network
        shapes = ready.operated.found.shapes
        wanted = Wanted(
            backbone,
            self.weights,
            options,
            self.strategy.seed if self.weights == "random" else 0,
            self.partial,
            layers=tuple(layers),
            poolings=tuple("" if len(shapes[layer] or ()) == 2 else "flatten" for layer in layers),
            views=views,
            kept=True,
        )
        return extract_activations(
            self._store,
            self.source.view(self.dataset) if isinstance(self.source, FeatureStore) else self.source,
            wanted,
            Setup(device=self.device),
            self.rule,
            self.on_progress,
        )


def without_time(epoch: Epoch) -> dict[str, Any]:
    """Return an epoch as a checkpoint has it: the same training gives the same."""
    return {name: value for name, value in dataclasses.asdict(epoch).items() if name != "seconds"}
