"""The best depth to freeze a network at, by successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943)."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Sequence

from data.errors import Diverged, TrainingError
from finetune.candidates import Candidate, candidates_of
from finetune.depth_results import Cost, Depth, Interval, Rung, Search
from finetune.devices import Runner
from finetune.epochs import Epoch
from finetune.journal import Journal, Reached, Rights
from finetune.roster import Parts
from finetune.steps import Floats
from finetune.strategies import Strategy
from finetune.trainer import Trainer
from finetune.tuning import Ready, Tuner


@dataclasses.dataclass(frozen=True)
class Judge:
    """What tells differences from chance; stage two has it.

    Parameters
    ----------
    interval : callable
        From pictures that are right, and all, to a 95% interval of the accuracy.
    paired : callable
        From which pictures two networks get right to the p-value that they are equally good.
    adjust : callable
        Corrects p-values for their number.
    """

    interval: Callable[[int, int], Interval]
    paired: Callable[[Rights, Rights], float]
    adjust: Callable[[list[float]], list[float]]


def plan_rungs(n: int, budget: int, epochs: int = 0) -> list[tuple[int, int]]:
    """Return for each rung how many depths run and after how many epochs they are compared.

    The better half, rounded up, goes on, for twice as many epochs in all; the last two decide.

    Parameters
    ----------
    n : int
        Depths to begin with.
    budget : int
        Epochs of the first rung.
    epochs : int
        Epochs of the last rung in all, instead: those before have half of the next one's, rounded up.

    Raises
    ------
    TrainingError
        If there are fewer epochs than that can be halved into.

    Examples
    --------
    >>> plan_rungs(7, 2)
    [(7, 2), (4, 4), (2, 8)]
    >>> plan_rungs(5, 0, epochs=10)
    [(5, 3), (3, 5), (2, 10)]
    """
    counts = [n]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    halvings = len(counts) - 1
    if epochs and epochs < 2**halvings:
        raise TrainingError(
            f"{n} depths take {len(counts)} rungs of doubled epochs, so the last one needs {2**halvings} or more: got "
            f"{epochs}; name fewer depths with --depths, or more --epochs"
        )
    last = epochs or budget * 2**halvings
    return [(count, math.ceil(last / 2 ** (halvings - i))) for i, count in enumerate(counts)]


@dataclasses.dataclass
class DepthSearch:
    """Trains a network frozen at several depths, and goes on with the better half of them until one is left.

    The depths differ in what they train alone: they start from the same weights, see the same pictures in the same
    order and the same views of them, at the same learning rates. A depth that goes on continues its own training. So
    the rate must not depend on how long a depth will be allowed to live: it rises once, then stays constant, and
    decays in the last rung, for the last two alike (the strategy's schedule ``cooldown``, Hagele et al. 2024,
    arXiv:2405.18392). A cosine in every rung would anneal each comparison, but shake the survivors anew each time.

    A depth counts as good as its best epoch so far on the pictures that choose; ties are decided by the loss, then by
    training less.

    Parameters
    ----------
    tuner : Tuner
        Names the pictures, the network and the strategy, whose mode, `freeze` and `epochs` are set here.
    judge : Judge
        Tells differences from chance.
    budget, epochs : int
        As for `plan_rungs`.
    depths : sequence of int
        Try these alone: stages that are frozen, one more than there are for the whole body.
    save : bool
        Write the winner's checkpoint to the tuner's output. Otherwise its folder keeps what is needed meanwhile.
    on_epoch : callable, optional
        Called with a depth, its epoch, and epochs done and in all.
    on_rung : callable, optional
        Called with each `Rung` and how its depths stand.
    """

    tuner: Tuner
    judge: Judge
    budget: int = 2
    epochs: int = 0
    depths: Sequence[int] = ()
    save: bool = True
    on_epoch: Callable[[int, Epoch, int, int], None] | None = None
    on_rung: Callable[[Rung, dict[int, Reached]], None] | None = None

    def run(self) -> Search:
        """Search; an interrupted search goes on where it was stopped.

        Raises
        ------
        PenultError
            If the pictures, the network, the strategy or the disk refuse; finished epochs are kept.
        """
        began = time.perf_counter()
        tuner = self.tuner
        ready = tuner.prepare()
        if not len(ready.parts.choose):
            raise TrainingError("no picture is held out to choose the depth by: use --keep best")
        candidates = candidates_of(ready.operated, lambda frozen, room: tuner.cut(ready, frozen, room), self.depths)
        plan = plan_rungs(len(candidates), self.budget, self.epochs)
        ready = dataclasses.replace(ready, strategy=dataclasses.replace(ready.strategy, epochs=plan[-1][1]))
        extracted = tuner.keep(ready, [candidate.cut for candidate in candidates])
        race = _Race(self, tuner, ready, plan)
        race.run(candidates)
        chosen = race.rungs[-1].kept[0]
        depths = self._judged([c for c in candidates if c.frozen in race.reached], race.reached, chosen)
        (winner,) = (depth for depth in depths if depth.candidate.frozen == chosen)
        scores = race.finish(winner.candidate, self.save)
        parts, targets = ready.parts, ready.roster.targets
        right: Rights = scores.argmax(axis=1) == targets[parts.measure]
        held_out = winner.reached[-1].right
        return Search(
            backbone=ready.operated.spec.backbone,
            strategy=race.strategy(chosen),
            stages=ready.operated.stages,
            parts=parts,
            rungs=race.rungs,
            depths=depths,
            chosen=winner,
            held_out_interval=self.judge.interval(int(held_out.sum()), len(held_out)),
            right=right,
            interval=self.judge.interval(int(right.sum()), len(right)),
            checkpoint=tuner.output if self.save else None,
            cost=_cost(depths, plan[-1][1], parts, extracted, time.perf_counter() - began),
            resumed=race.resumed,
            skipped=ready.roster.skipped,
            notes=ready.notes + race.notes + _uncut(candidates),
        )

    def _judged(self, candidates: list[Candidate], reached: dict[int, list[Reached]], chosen: int) -> list[Depth]:
        """Compare each depth with the chosen one as both were when the depth was last run."""
        others = [c.frozen for c in candidates if c.frozen != chosen]
        against = [(reached[chosen][len(reached[o]) - 1], reached[o][-1]) for o in others]
        p_values = self.judge.adjust([self.judge.paired(best.right, other.right) for best, other in against])
        p: dict[int, float] = dict(zip(others, p_values, strict=True))
        return [Depth(c, reached[c.frozen], p.get(c.frozen)) for c in candidates]


class _Race:
    """The rungs of one search."""

    def __init__(self, job: DepthSearch, tuner: Tuner, ready: Ready, plan: list[tuple[int, int]]) -> None:
        self.job = job
        self.tuner = tuner
        self.ready = ready
        self.plan = plan
        self.rungs: list[Rung] = []
        self.reached: dict[int, list[Reached]] = {}
        self.notes: list[str] = []
        # what every depth starts from; a copy, since they share one network in turn
        self._before = {k: v.detach().clone() for k, v in ready.operated.network.state_dict().items()}
        output = tuner.output
        self._folder = output.with_name(f"{output.name}.depths")
        self._journal = Journal(self._folder, tuner.request(ready))
        self.resumed = self._folder.exists()

    def run(self, candidates: list[Candidate]) -> None:
        """Train rung after rung, until one depth is chosen."""
        self._journal.read()
        running = candidates
        befores = [0, *(until for _, until in self.plan)]
        total = sum(n * (until - before) for (n, until), before in zip(self.plan, befores, strict=False))
        done = 0
        for number, ((_, until), before) in enumerate(zip(self.plan, befores, strict=False), 1):
            for candidate in list(running):
                try:
                    reached = self._reach(candidate, until, done, total)
                except Diverged as error:
                    self.notes.append(f"{error}: it left the race")
                    running = [other for other in running if other is not candidate]
                else:
                    self.reached.setdefault(candidate.frozen, []).append(reached)
                done += until - before
            if not running:
                raise TrainingError(f"every depth diverged: {self.notes[0].removesuffix(': it left the race')}")
            stand = {c.frozen: self.reached[c.frozen][-1] for c in running}
            order = sorted(running, key=lambda c: (*stand[c.frozen].merit, c.frozen), reverse=True)
            going_on = order[: self.plan[number][0] if number < len(self.plan) else 1]
            ran, kept = (tuple(c.frozen for c in some) for some in (running, going_on))
            self.rungs.append(Rung(number, until, ran, kept))
            if self.job.on_rung:
                self.job.on_rung(self.rungs[-1], stand)
            running = [c for c in candidates if c in going_on]

    def strategy(self, frozen: int) -> Strategy:
        """Return how a depth is trained."""
        n = len(self.ready.operated.stages)
        mode = "full" if not frozen else "head" if frozen > n else "partial"
        return dataclasses.replace(self.ready.strategy, mode=mode, freeze=frozen if mode == "partial" else 0)

    def finish(self, candidate: Candidate, save: bool) -> Floats:
        """Return the winner's scores of the pictures that measure; write it; remove what is no longer needed."""
        trainer = self._trainer(candidate)
        trained = trainer.run()
        scores = trainer.scores(self.ready.parts.measure)
        tuner = self.tuner
        if save:
            tuner.save(self.ready, self.strategy(candidate.frozen), trained)
        shutil.rmtree(self._folder)
        self.ready.keeper.forget()
        return scores

    def _reach(self, candidate: Candidate, until: int, done: int, total: int) -> Reached:
        """Train a depth up to an epoch, unless an earlier run has."""
        known = self._journal.find(candidate.frozen, until)
        if known:
            return known
        began = len(self.reached.get(candidate.frozen, [])) and len(self.reached[candidate.frozen][-1].epochs)

        def told(epoch: Epoch) -> None:
            if self.job.on_epoch:
                self.job.on_epoch(candidate.frozen, epoch, done + epoch.number - began, total)

        trainer = self._trainer(candidate, told)
        try:
            trained = trainer.run(until)
        except TrainingError as error:
            raise type(error)(f"with {candidate.frozen} stages frozen {error}") from None
        choose = self.ready.parts.choose
        right = trainer.scores(choose).argmax(axis=1) == self.ready.roster.targets[choose]
        reached = Reached(trained.epochs, trained.kept, right)
        self._journal.add(candidate.frozen, reached)
        return reached

    def _trainer(self, candidate: Candidate, told: Callable[[Epoch], None] | None = None) -> Trainer:
        """Return what trains a depth, from the weights that all of them start from."""
        tuner, ready = self.tuner, self.ready
        strategy = self.strategy(candidate.frozen)
        ready.operated.network.load_state_dict(self._before)
        runner = Runner(tuner.device, strategy.precision)  # its own: what mixed precision learns is part of a training
        course = tuner.course(ready, candidate.cut)
        runner.place(ready.operated.network, course.path)
        state = self._folder / f"freeze-{candidate.frozen}"
        return Trainer(course, strategy, runner, state, tuner.request(ready), on_epoch=told)


def _uncut(candidates: Sequence[Candidate]) -> list[str]:
    """Say why depths are run from pixels, each reason once."""
    whys: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.cut.why:
            whys.setdefault(candidate.cut.why, []).append(str(candidate.frozen))
    return [f"freeze {', '.join(numbers)}: {why}" for why, numbers in whys.items()]


def _cost(depths: list[Depth], epochs: int, parts: Parts, extracted: int, seconds: float) -> Cost:
    """Count what was done, and what training every depth from pixels for `epochs` epochs would be."""
    n_train, n_choose = len(parts.train), len(parts.choose)
    done = [len(depth.reached[-1].epochs) for depth in depths]
    whole = depths[0].candidate.all_macs
    ours = [d.candidate.work(run, n_train, n_choose) for d, run in zip(depths, done, strict=True)]
    in_full = sum(d.candidate.work(epochs, n_train, n_choose, cached=False) for d in depths)
    epoch_seconds = sum(depth.seconds for depth in depths)
    passes = {"extracted": extracted, "trained": sum(done) * n_train}
    passes["measured"] = sum(done) * n_choose + len(parts.measure)
    return Cost(
        passes=passes,
        seconds=seconds,
        epoch_seconds=epoch_seconds,
        macs=extracted * whole + sum(ours),
        macs_in_full=in_full,
        estimated_seconds_in_full=epoch_seconds * in_full / sum(ours),
    )
