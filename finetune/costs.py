"""What training costs, counted in multiply-adds."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

from extract.cost import macs_of
from extract.pooling import Pool
from finetune.cached import Cut
from finetune.surgery import Operated

# The gradient with respect to activations and the one with respect to weights take a forward pass's products each.
BACKWARD = 2


def macs_behind(operated: Operated, depths: Sequence[int]) -> dict[int, int]:
    """Return the multiply-adds of one picture behind the first stages of a network, for several numbers of them.

    Parameters
    ----------
    operated : Operated
        On the CPU; it is put into eval mode.
    depths : sequence of int
        Numbers of stages, as for `finetune.surgery.freeze`.

    Returns
    -------
    dict of int to int
        For each of them, and for 0: through the whole network.
    """
    shape = (len(operated.spec.mean), *operated.spec.crop)
    network = operated.network.eval()
    whole = macs_of(network, shape)
    macs = {0: whole}
    for frozen in depths:
        if frozen > len(operated.stages):
            macs[frozen] = whole - macs_of(network.body, shape)
        elif frozen:
            found = operated.found
            if found.graph is None:  # the hooks of its cut would stay in the network
                found = dataclasses.replace(found, network=copy.deepcopy(found.network))
            macs[frozen] = whole - macs_of(found.cut([operated.stages[frozen - 1]], [Pool("none")]), shape)
    return macs


def cost_in_pictures(operated: Operated, cut: Cut, kept: int, passes: Mapping[str, int]) -> float:
    """Return what a training costs in pictures that go once, forward, through the whole network.

    Parameters
    ----------
    operated : Operated
        On the CPU.
    cut : Cut
        Where training began to compute.
    kept : int
        Pictures, each view counted, whose activations are kept where there is a cut: they cost whoever computed them.
    passes : mapping of str to int
        As in `finetune.results.Tuning`.
    """
    macs = macs_behind(operated, [cut.frozen])
    share = macs[cut.frozen] / macs[0]  # of what has a gradient
    run = share if cut.layer else 1.0  # without activations kept, the frozen stages are run forward in every epoch
    before = kept * (1 - share) if cut.layer else 0.0
    return before + passes["trained"] * (run + BACKWARD * share) + passes["measured"] * run
