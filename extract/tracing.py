"""What layers a network has, by one trial run, and the network cut at some of them.

A network is traced by torch.fx, so that nothing after the last wanted layer is computed or kept. One that cannot be
traced, or whose trace does not compute what it computes, gives its modules' outputs through forward hooks.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from data.errors import BackboneError, first_line
from extract.options import PENULTIMATE
from extract.pooling import Pool, Shape

# Pictures in the trial run that finds the shapes: two, so that a layer without one row a picture shows itself.
TRIAL = 2
# What tracing a network raises that decides by its values or calls what torch.fx does not know.
UNTRACEABLE = (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError)


class Cut(nn.Module):
    """A network that gives a tuple of vectors for each picture.

    Parameters
    ----------
    body : Module
        Maps pictures to one tensor (B, dim), or to a tuple of them.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (B, dim_i) for each output, of normalised pictures (B, C, H, W)."""
        outputs = self.body(x)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


class _Enough(Exception):
    pass


class HookedCut(Cut):
    """The same for a network that cannot be traced: its modules' outputs are pooled as they run.

    Parameters
    ----------
    body : Module
        The whole network.
    names : sequence of str
        For each output the module, or ``penultimate`` for what the network itself returns.
    pools : sequence of Pool
        For each output its pooling.
    """

    def __init__(self, body: nn.Module, names: Sequence[str], pools: Sequence[Pool]) -> None:
        super().__init__(body)
        self._wanted = list(zip(names, pools, strict=True))
        self._seen: dict[int, torch.Tensor] = {}  # number of the output -> vectors of this pass
        for name in {*names} - {PENULTIMATE}:
            body.get_submodule(name).register_forward_hook(self._note(name))

    def _note(self, name: str) -> Any:
        mine = [(i, pool) for i, (layer, pool) in enumerate(self._wanted) if layer == name]

        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            for i, pool in mine:
                if i not in self._seen:
                    self._seen[i] = pool(output)
            # a compiler that follows leaves out by itself what nobody uses, and cannot follow exceptions
            if len(self._seen) == len(self._wanted) and not torch.compiler.is_compiling():
                raise _Enough

        return hook

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (B, dim_i) for each output; what comes after the last wanted layer is not run."""
        self._seen.clear()
        if torch.compiler.is_compiling():
            self._take_last(self.body(x))
        else:
            with contextlib.suppress(_Enough):
                self._take_last(self.body(x))
        vectors = tuple(self._seen[i] for i in range(len(self._wanted)))
        self._seen.clear()
        return vectors

    def _take_last(self, output: torch.Tensor) -> None:
        for i, (layer, pool) in enumerate(self._wanted):
            if layer == PENULTIMATE:
                self._seen[i] = pool(output)


@dataclasses.dataclass(frozen=True)
class Survey:
    """The layers of a network, from one trial run.

    Parameters
    ----------
    network : Module
        Without its last layer.
    shapes : dict of str to tuple of int, or None
        Each name's output for two pictures, in the order in which they are computed; None where it is no tensor.
    modules : dict of str to Module
        Those of the names that are modules.
    graph : Graph, optional
        The trace; without one only hooks are left.
    nodes : dict of str to Node
        Each name's node in the trace.
    """

    network: nn.Module
    shapes: Mapping[str, Shape | None]
    modules: Mapping[str, nn.Module]
    graph: fx.Graph | None = None
    nodes: Mapping[str, fx.Node] = dataclasses.field(default_factory=dict)

    def cut(self, names: Sequence[str], pools: Sequence[Pool]) -> Cut:
        """Return a network that gives these layers, pooled, and computes nothing after the last of them."""
        if self.graph is None:
            return HookedCut(self.network, names, pools)
        shorter = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        wanted = [self.nodes[name] for name in names]
        for node in self.graph.nodes:
            if all(want in copies for want in wanted):
                break
            copies[node] = shorter.node_copy(node, lambda n: copies[n])
        whole = fx.GraphModule(self.network, shorter)
        vectors = []
        for i, (want, pool) in enumerate(zip(wanted, pools, strict=True)):
            whole.add_submodule(f"penult_pool.{i}", pool)
            # right behind its layer: what comes next may change the layer's output in place, as most ReLUs do
            with shorter.inserting_after(copies[want]):
                vectors.append(shorter.call_module(f"penult_pool.{i}", (copies[want],)))
        shorter.output(tuple(vectors))
        shorter.eliminate_dead_code()
        # made anew, since a GraphModule takes the parameters that its graph needs when it is made
        return Cut(fx.GraphModule(whole, shorter, type(self.network).__name__))


class _Tracer(NodePathTracer):  # type: ignore[misc]
    """torchvision's tracer, which also remembers what each module returned."""

    def __init__(self, **leaves: Any) -> None:
        super().__init__(**leaves)
        self.returned: dict[str, Any] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        self.returned.setdefault(self.path_of_module(m), value)
        return value


class _Shapes(fx.Interpreter):
    """Runs a trace and remembers each node's shape."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, Shape | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.shapes[n] = _shape(value)
        return value


def survey(network: nn.Module, channels: int, crop: tuple[int, int], head: Sequence[str] = ()) -> Survey:
    """Run a network once, on noise, and list its layers.

    Parameters
    ----------
    network : Module
        In eval mode, without its last layer.
    channels : int
        Of the pictures.
    crop : tuple of int
        Their height and width.
    head : sequence of str
        Names of the layers that were taken off; what stands in their place is no layer.

    Raises
    ------
    BackboneError
        If it cannot be run on such pictures.
    """
    noise = torch.rand((TRIAL, channels, *crop), generator=torch.Generator().manual_seed(0))
    found, output = _survey_by_hooks(network, noise)
    try:
        traced, same = _survey_by_trace(network, noise)
        # a trace takes the branches of one run: it is trusted where it computes what the network computes
        if torch.allclose(same, output, rtol=1e-3, atol=1e-4 * float(output.abs().max())):
            found = traced
    except UNTRACEABLE:
        pass
    return dataclasses.replace(found, shapes={k: v for k, v in found.shapes.items() if k not in head})


def _survey_by_hooks(network: nn.Module, noise: torch.Tensor) -> tuple[Survey, torch.Tensor]:
    shapes: dict[str, Shape | None] = {}
    modules = {name: module for name, module in network.named_modules() if name}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            shapes.setdefault(name, _shape(output))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            output = network(noise)
    except (RuntimeError, AssertionError, IndexError) as error:
        raise BackboneError(
            f"{type(network).__name__} failed on pictures of {tuple(noise.shape[1:])} ({first_line(error)}): "
            "try another --input-size or --color"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, torch.Tensor):
        raise BackboneError(f"{type(network).__name__} gives no tensor: choose a classification network")
    shapes[PENULTIMATE] = _shape(output)
    return Survey(network, shapes, {name: modules[name] for name in shapes if name in modules}), output


def trace(network: nn.Module) -> tuple[fx.Graph, dict[str, fx.Node], list[str]]:
    """Trace a network as it is, training or not: what depends on the mode without being a module is fixed by it.

    Returns
    -------
    graph : Graph
    nodes : dict of str to Node
        By the name of the layer, in the order in which they are computed.
    returned : list of str
        Those of the names that are modules.

    Raises
    ------
    ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError
        If torch.fx cannot follow it.
    """
    import timm.models

    # what timm knows torch.fx cannot look into
    leaves: list[Any] = timm.models.get_notrace_modules()  # type: ignore[no-untyped-call]
    functions: list[Any] = timm.models.get_notrace_functions()  # type: ignore[no-untyped-call]
    tracer = _Tracer(leaf_modules=list(leaves), autowrap_functions=tuple(functions))
    graph: fx.Graph = tracer.trace(network)
    nodes = {name: node for node, name in tracer.node_to_qualname.items() if node.op.startswith("call_")}
    for name, node in list(nodes.items()):  # `layer4` is the last node in it, if it is no module that gives a tensor
        while name := name.rpartition(".")[0]:
            nodes[name] = node
    nodes |= {name: value.node for name, value in tracer.returned.items() if name and isinstance(value, fx.Proxy)}
    order = {node: i for i, node in enumerate(graph.nodes)}
    nodes = dict(sorted(nodes.items(), key=lambda item: (order[item[1]], -len(item[0]))))
    (last,) = (node for node in graph.nodes if node.op == "output")
    nodes[PENULTIMATE] = last.args[0]
    return graph, nodes, [name for name in nodes if name in tracer.returned]


def _survey_by_trace(network: nn.Module, noise: torch.Tensor) -> tuple[Survey, torch.Tensor]:
    graph, nodes, returned = trace(network)
    runner = _Shapes(network, graph)
    with torch.no_grad():
        output = runner.run(noise)
    shapes = {name: runner.shapes[node] for name, node in nodes.items()}
    return Survey(network, shapes, {name: network.get_submodule(name) for name in returned}, graph, nodes), output


def _shape(value: object) -> Shape | None:
    """Return the shape of what can be a feature."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) and value.is_floating_point() else None
