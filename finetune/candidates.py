"""Depths at which a network could be frozen: what each would train, from what, and what that costs."""

import dataclasses
from collections.abc import Callable, Sequence

from data.errors import TrainingError
from extract.options import PENULTIMATE
from finetune.cached import CACHE_LIMIT, Cut
from finetune.costs import BACKWARD, macs_behind
from finetune.surgery import Operated, depths_of


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One depth.

    Parameters
    ----------
    frozen : int
        Stages that are not trained, as for `finetune.surgery.freeze`.
    layer : str
        The last frozen layer; empty where everything is trained.
    cut : Cut
        Where training begins to compute.
    parameters : float
        Share of the network's parameters that is trained, of the last layer too.
    macs, all_macs : int
        Multiply-adds of one picture through what is trained, and through the whole network.
    """

    frozen: int
    layer: str
    cut: Cut
    parameters: float
    macs: int
    all_macs: int

    def work(self, epochs: int, n_train: int, n_choose: int, *, cached: bool = True) -> int:
        """Return the multiply-adds of some epochs.

        Parameters
        ----------
        epochs, n_train, n_choose : int
            How often how many pictures are learnt from, and only looked at.
        cached : bool
            Whether stored activations are used where there are any.
        """
        forward = self.macs if cached and self.cut.layer else self.all_macs
        return epochs * (n_train * (forward + BACKWARD * self.macs) + n_choose * forward)


def candidates_of(
    operated: Operated, find: Callable[[int, int], Cut], only: Sequence[int] = (), room: int = CACHE_LIMIT
) -> list[Candidate]:
    """Return the depths worth trying, the least frozen first; of two that train the same layers the deeper one.

    Parameters
    ----------
    operated : Operated
        The network, on the CPU.
    find : callable
        Says where to cut it, from the number of frozen stages and the bytes that activations may take.
    only : sequence of int
        Try these alone.
    room : int
        Bytes for the activations of all depths: the deepest come first, which are smallest and save most.

    Raises
    ------
    TrainingError
        If there is no such depth, or one alone.
    """
    n = len(operated.stages)
    wrong = [frozen for frozen in only if not 0 <= frozen <= n + 1]
    if wrong:
        raise TrainingError(
            f"{operated.spec.backbone} has {n} stages: a depth is from 0 (everything is trained) to {n + 1} (the last "
            f"layer alone), got {wrong[0]}"
        )
    depths = depths_of(operated).parameters
    last = sum(parameter.numel() for parameter in operated.network.last.parameters())
    sizes = {name: parameter.numel() for name, parameter in operated.network.body.named_parameters()}
    trained = {frozen: sum(s for name, s in sizes.items() if depths[name] >= frozen) for frozen in range(n + 2)}
    deepest = {size: frozen for frozen, size in trained.items() if not only or frozen in only}
    chosen = sorted(deepest.values())
    if len(chosen) < 2:
        raise TrainingError(f"one depth alone ({chosen[0]}) leaves nothing to search: name several with --depths")
    macs = macs_behind(operated, chosen)
    found = []
    for frozen in reversed(chosen):
        cut = find(frozen, room)
        room -= cut.nbytes
        layer = PENULTIMATE if frozen > n else operated.stages[frozen - 1] if frozen else ""
        share = (trained[frozen] + last) / (trained[0] + last)
        found.append(Candidate(frozen, layer, cut, share, macs[frozen], macs[0]))
    return found[::-1]
