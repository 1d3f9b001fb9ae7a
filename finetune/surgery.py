"""What is done to a network before it is trained: a new last layer, frozen stages, a cut at a layer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data.errors import BackboneError
from data.spec import FeatureSpec
from extract.backbones import open_headless, refuse_little
from extract.layers import HOW_TO_LIST
from extract.options import PENULTIMATE, Options
from extract.pooling import Shape
from extract.stages import stages_of
from extract.tracing import UNTRACEABLE, Survey, survey, trace

Array = npt.NDArray[Any]


class Tuned(nn.Module):
    """A network with a new last layer.

    Parameters
    ----------
    body : Module
        Maps normalised pictures (B, C, H, W) to penultimate vectors (B, dim).
    dim, n_classes : int
        Of the last layer, which is linear whatever the network came with.
    """

    def __init__(self, body: nn.Module, dim: int, n_classes: int) -> None:
        super().__init__()
        self.body = body
        self.last = nn.Linear(dim, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a score for each class, (B, k)."""
        scores: torch.Tensor = self.last(self.body(x))
        return scores


class Rest(nn.Module):
    """What is left of a body behind a layer: maps the layer's output, flattened, to penultimate vectors.

    Functions that behave differently in training, which a trace fixes, are right in both modes: there is a trace of
    each. Parameters and modules are the body's own.

    Parameters
    ----------
    training, evaluating : Module
        The rest of the two traces.
    shape : tuple of int
        Of the layer's output for one picture.
    """

    def __init__(self, training: nn.Module, evaluating: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.when_training = training
        self.when_evaluating = evaluating
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return penultimate vectors (B, dim) of activations (B, product of `shape`)."""
        x = x.view(len(x), *self.shape)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        vectors: torch.Tensor = self.when_training(x) if self.training else self.when_evaluating(x)
        return vectors


@dataclasses.dataclass(frozen=True)
class Operated:
    """A network ready to be trained.

    Parameters
    ----------
    network : Tuned
        On the CPU; every parameter may be trained.
    spec : FeatureSpec
        Of the penultimate vectors before training.
    head : tuple of str
        Names of the layers that were taken off.
    found : Survey
        The body's layers.
    stages : tuple of str
        Names of the last layers of its stages, first stage first.
    report : tuple of str
        What the user should know of how the weights fitted.
    fit : str, optional
        The spec's, where it was asked for by name.
    """

    network: Tuned
    spec: FeatureSpec
    head: tuple[str, ...]
    found: Survey
    stages: tuple[str, ...]
    report: tuple[str, ...] = ()
    fit: str | None = None


def operate(
    backbone: str,
    weights: str,
    n_classes: int,
    options: Options | None = None,
    seed: int = 0,
    *,
    partial: bool = False,
) -> Operated:
    """Open a network and give it a new last layer, random by seed.

    Parameters
    ----------
    backbone, weights, options, seed, partial
        As for `extract.backbones.open_backbone`.
    n_classes : int
        Outputs of the new layer.

    Raises
    ------
    BackboneError
        If there is no such network, or its last layer does not read one vector.
    WeightsError
        If the weights cannot be had or do not fit; or with `partial`, if less than half of the tensors do.
    """
    opened = open_headless(backbone, weights, options, seed, partial=partial)
    if opened.loaded and partial:
        refuse_little(opened, opened.network.state_dict(), opened.spec.backbone)
    found = survey(opened.network, len(opened.spec.mean), opened.spec.crop, opened.head)
    shape = found.shapes[PENULTIMATE]
    if shape is None or len(shape) != 2:
        raise BackboneError(f"{opened.spec.backbone} gives no vector before its last layer: choose another network")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed reaches every device of the machine
        network = Tuned(opened.network, shape[1], n_classes)
    network.requires_grad_(True)
    report = opened.loaded.report(opened.title, opened.spec.backbone, seed) if opened.loaded and partial else ()
    stages = tuple(stages_of(found, opened.spec.crop, opened.head))
    fit = options.fit if options else None
    return Operated(network, opened.spec, opened.head, found, stages, report, fit)


def set_last_layer(network: Tuned, weight: Array, bias: Array, rows: Sequence[int] | None = None) -> None:
    """Give the last layer known weights: all of it, or the rows of some classes.

    Parameters
    ----------
    network : Tuned
        Changed in place.
    weight : ndarray of shape (m, dim)
        For raw penultimate vectors: a scaler is folded in already.
    bias : ndarray of shape (m,)
        The same classes' intercepts.
    rows : sequence of int, optional
        Which classes these are; without them, all in order.
    """
    places = list(range(network.last.out_features)) if rows is None else list(rows)
    if weight.shape != (len(places), network.last.in_features):
        raise BackboneError(
            f"a last layer of {weight.shape} does not fit {len(places)} classes of {network.last.in_features} "
            "features: it was fitted on another network, or for other classes"
        )
    with torch.no_grad():
        network.last.weight[places] = torch.from_numpy(np.asarray(weight, dtype=np.float32))
        network.last.bias[places] = torch.from_numpy(np.asarray(bias, dtype=np.float32))


@dataclasses.dataclass(frozen=True)
class Depths:
    """Behind how many stages' ends each part of a body is computed.

    Parameters
    ----------
    parameters : dict of str to int
        0 for the first stage, the number of stages for what follows the last.
    modules : dict of str to int
        The same of modules; one that spans several counts as its last part.
    """

    parameters: dict[str, int]
    modules: dict[str, int]

    def frozen_modules(self, frozen: int) -> list[str]:
        """Return the modules all of whose parts lie in the first `frozen` stages."""
        return [name for name, depth in self.modules.items() if depth < frozen]


def depths_of(operated: Operated) -> Depths:
    """Say in which stage each parameter and module of a body is used, in the order of computation.

    Of a network that cannot be traced it is the order of registration.
    """
    body, ends = operated.network.body, operated.stages
    leaves: dict[str, int] = {}
    loose: dict[str, int] = {}  # parameters that the network uses without a module of their own
    if operated.found.graph is not None:
        last = {operated.found.nodes[name]: i for i, name in enumerate(ends)}
        depth = 0
        for node in operated.found.graph.nodes:
            if node.op == "call_module":
                leaves.setdefault(str(node.target), depth)
            elif node.op == "get_attr":
                loose.setdefault(str(node.target), depth)
            depth = max(depth, last[node] + 1) if node in last else depth
    else:
        names = [name for name, module in body.named_modules() if name and not list(module.children())]
        inside = [max((i for i, n in enumerate(names) if f"{n}.".startswith(f"{end}.")), default=-1) for end in ends]
        leaves = {name: sum(i > at for at in inside) for i, name in enumerate(names)}
    parameters = {}
    for name, _ in body.named_parameters():
        owner = name
        while owner not in leaves and "." in owner:
            owner = owner.rpartition(".")[0]
        # what no node uses gets no gradient: it may count as the end
        parameters[name] = loose.get(name, leaves.get(owner, len(ends)))
    modules = {}
    for name, _ in body.named_modules():
        start = f"{name}." if name else ""
        parts = [d for leaf, d in leaves.items() if leaf == name or leaf.startswith(start)]
        parts += [d for parameter, d in parameters.items() if parameter.startswith(start)]
        modules[name] = max(parts, default=len(ends))
    return Depths(parameters, modules)


@dataclasses.dataclass(frozen=True)
class Freezing:
    """What of a network is not trained.

    Parameters
    ----------
    stages : int
        The first so many stages; more than there are freezes the whole body.
    modules : tuple of str
        Modules of the body that stay in eval mode: BatchNorm keeps its statistics, and nothing in them is random.
    """

    stages: int
    modules: tuple[str, ...]

    def train(self, network: Tuned) -> None:
        """Put the network into training mode, except what is frozen."""
        network.train()
        for name in self.modules:
            network.body.get_submodule(name).eval()


def freeze(operated: Operated, stages: int, norms: bool = False) -> Freezing:
    """Keep the first stages of a body from being trained, in place.

    Parameters
    ----------
    operated : Operated
        Its parameters are marked.
    stages : int
        How many; one more than there are stands for the whole body.
    norms : bool
        Whether BatchNorm of the other stages, too, keeps its statistics; its scale and shift are trained.

    Raises
    ------
    BackboneError
        If there are fewer.
    """
    n = len(operated.stages)
    if not 0 <= stages <= n + 1:
        raise BackboneError(
            f"{operated.spec.backbone} has {n} stages ({', '.join(operated.stages)}): freeze 1 to {n} of them, "
            "or train the last layer alone with --mode head"
        )
    depths = depths_of(operated)
    for name, parameter in operated.network.body.named_parameters():
        parameter.requires_grad_(depths.parameters[name] >= stages)
    modules = depths.frozen_modules(stages)
    if norms:
        named = operated.network.body.named_modules()
        modules += [name for name, module in named if isinstance(module, _BatchNorm) and name not in modules]
    return Freezing(stages, tuple(modules))


def rest_of(operated: Operated, layer: str) -> Rest:
    """Return what of a body follows a layer.

    Raises
    ------
    BackboneError
        If the network cannot be traced, or something else than this layer's output is needed behind it.
    """
    body, found = operated.network.body, operated.found
    title = operated.spec.backbone
    if found.graph is None:
        raise BackboneError(f"{title} cannot be cut at {layer}: torch.fx cannot follow it")
    if layer not in found.nodes or (shape := found.shapes.get(layer)) is None:
        raise BackboneError(f"{title} has no layer {layer!r} that gives a tensor: {HOW_TO_LIST}")
    evaluating = _behind(body, found.graph, found.nodes[layer], title, layer)
    body.train()
    try:
        graph, nodes, _ = trace(body)
        training = _behind(body, graph, nodes[layer], title, layer)
    except UNTRACEABLE as error:
        raise BackboneError(f"{title} cannot be cut at {layer}: torch.fx cannot follow its training") from error
    finally:
        body.eval()
    return Rest(training, evaluating, shape[1:])


def _behind(body: nn.Module, graph: fx.Graph, cut: fx.Node, title: str, layer: str) -> fx.GraphModule:
    """Return that part of a trace which leads from one node to the output."""
    (last,) = (node for node in graph.nodes if node.op == "output")
    needed, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node is not cut and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    shorter = fx.Graph()
    copies = {cut: shorter.placeholder("x")}
    behind = False
    for node in graph.nodes:
        behind = behind or node is cut
        if node not in needed:
            continue
        if node.op == "placeholder" or (node.op == "call_module" and not behind):
            other = "the pictures" if node.op == "placeholder" else node.target
            raise BackboneError(f"{title} cannot be cut at {layer}: what follows it needs {other}, too")
        copies[node] = shorter.node_copy(node, lambda n: copies[n])
    return fx.GraphModule(body, shorter, f"{type(body).__name__}Rest")
