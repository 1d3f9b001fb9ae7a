"""A network and a head as one module: from uint8 pictures to probabilities."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from data.errors import SpecError
from data.tail import Tail
from extract.backbones import Backbone
from extract.graphs import Normalised
from extract.networks import Feature
from extract.preprocess import single_views

# What a network can be given of one centre crop.
_VIEWS = ("center", "flip")
_LUMA = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 in 16-bit fixed point, as `extract.preprocess` has it


class Fused(nn.Module):
    """Normalisation, network, projection and head.

    It takes the centre crop as RGB (with alpha behind it where the network wants that): luma and the mirror image are
    made inside.

    Parameters
    ----------
    backbone : Backbone
        The network, on the CPU.
    features : sequence of Feature
        What its outputs become, in the order of the head's columns.
    widths : sequence of int
        Numbers of each of the network's outputs.
    tail : Tail
        The head.

    Raises
    ------
    SpecError
        If a feature is of a view that is not made of the centre crop.
    """

    def __init__(self, backbone: Backbone, features: Sequence[Feature], widths: Sequence[int], tail: Tail) -> None:
        super().__init__()
        self.network = Normalised(backbone)
        self.vectors = nn.ModuleList(_Vector(feature, widths[feature.output]) for feature in features)
        self.tail = _TAILS[tail.kind](tail)
        self.calibration = _Calibration(tail)
        self.views = [view for view in _VIEWS if any(view in vector.views for vector in self._vectors)]
        self.color = backbone.spec.color

    @property
    def _vectors(self) -> "list[_Vector]":
        return [vector for vector in self.vectors if isinstance(vector, _Vector)]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities and logits, (B, k) each, of pictures (B, H, W, 3 or 4) uint8."""
        x = pixels.float()
        if self.color in ("gray", "luma"):
            # whole numbers below 2 ** 24, so that float32 is exact and the floor is the shift of integers
            x = torch.floor(((x * x.new_tensor(_LUMA)).sum(3, keepdim=True) + 0x8000) / 65536)
            x = x if self.color == "luma" else x.expand(-1, -1, -1, 3)
        outputs = {}
        for view in self.views:
            outputs[view] = self.network(x if view == "center" else x.flip(2))
        vectors = torch.cat([vector(outputs) for vector in self._vectors], dim=1)
        logits = self.calibration(self.tail(vectors))
        return torch.softmax(logits, dim=1), logits


class _Vector(nn.Module):
    """One feature: the mean over its views, projected, normalised."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, feature: Feature, width: int) -> None:
        super().__init__()
        self.views = single_views(feature.spec.view)
        self.output, self.l2 = feature.output, feature.spec.normalize == "l2"
        self.projected = feature.project is not None
        other = [view for view in self.views if view not in _VIEWS]
        if other:
            raise SpecError(
                f"{feature.spec.title} is of the view {other[0]}, and an exported model sees the centre crop alone: "
                "fit the head on features of the view center, flip or their mean"
            )
        if feature.project is not None:
            mean, matrix = feature.project.affine(width)
            self.register_buffer("mean", torch.from_numpy(mean))
            self.register_buffer("matrix", torch.from_numpy(matrix))

    def forward(self, outputs: dict[str, tuple[torch.Tensor, ...]]) -> torch.Tensor:
        views = [outputs[view][self.output] for view in self.views]
        vectors = views[0] if len(views) == 1 else torch.stack(views).mean(0)
        if self.projected:
            vectors = (vectors - self.mean) @ self.matrix
        return functional.normalize(vectors, dim=1) if self.l2 else vectors


class _Arrays(nn.Module):
    """The arrays of a tail as buffers by their names."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        for name, array in tail.arrays.items():
            self.register_buffer(name, torch.from_numpy(array))
        self.count = sum(name.startswith("weight") for name in tail.arrays)

    def layer(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.get_buffer(f"weight{i}"), self.get_buffer(f"bias{i}")


class _Linear(_Arrays):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.get_buffer("weight") + self.get_buffer("bias")


class _MLP(_Arrays):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.layer(0)
        n = len(self.get_buffer("weight1"))
        x = torch.relu(x @ weight + bias)  # (B, n * h)
        x = x.reshape(-1, n, weight.shape[1] // n).permute(1, 0, 2)  # (n, B, h)
        for i in range(1, self.count):
            weight, bias = self.layer(i)
            x = (torch.relu(x) if i > 1 else x) @ weight + bias
        # the constant log n is left out: it is the same for every class
        return torch.logsumexp(torch.log_softmax(x, dim=2), dim=0)


class _Quadratic(_Arrays):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = (x - self.get_buffer("mean")) / self.get_buffer("scale")
        return z @ self.get_buffer("weight") + (z * z) @ self.get_buffer("square") + self.get_buffer("bias")


class _Stack(_Arrays):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logs, start = [], 0
        for i in range(self.count):
            weight, bias = self.layer(i)
            block = x[:, start : start + len(weight)]
            logs.append(torch.log(torch.softmax(block @ weight + bias, dim=1).clamp(min=1e-12)))
            start += len(weight)
        return torch.cat(logs, dim=1) @ self.get_buffer("mixture") + self.get_buffer("mixture_bias")


class _Calibration(nn.Module):
    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(tail.scale))
        self.register_buffer("bias", torch.from_numpy(tail.bias))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        if len(self.scale) > 1:
            scores = scores - scores.mean(dim=1, keepdim=True)
        return self.scale * scores + self.bias


_TAILS: dict[str, Callable[[Tail], nn.Module]] = {
    "linear": _Linear,
    "mlp": _MLP,
    "quadratic": _Quadratic,
    "stack": _Stack,
}
