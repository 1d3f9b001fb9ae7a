"""Where and in which precision a network is trained: the only file of stage three that knows of devices."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.errors import TrainingError
from extract.engines import choose_device

_AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
# The scale of fp16 halves with every step whose gradients overflow, from 2**16: here 32 more of them than it recovered.
_LEAST_SCALE = 2.0**-16


class Runner:
    """Moves networks and batches to a device and takes steps there.

    Parameters
    ----------
    device : str
        As for `extract.engines.choose_device`.
    precision : str
        ``float32``; ``fp16`` or ``bf16``: automatic mixed precision; ``auto``: fp16 on CUDA, else float32.

    Attributes
    ----------
    device, precision : str
        What was chosen.
    """

    def __init__(self, device: str = "auto", precision: str = "auto") -> None:
        self.device = choose_device(device)
        self.kind = self.device.partition(":")[0]
        self.precision = precision if precision != "auto" else "fp16" if self.kind == "cuda" else "float32"
        if self.precision not in ("float32", *_AUTOCAST):
            raise TrainingError(f"no precision {precision!r}: use auto, float32, fp16 or bf16")
        # small gradients vanish in fp16 unless the loss is scaled up
        self.scaler = torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def place(self, *modules: nn.Module) -> None:
        """Move modules to the device; their convolutions run in channels-last memory, the fast layout of each.

        Modules that share parameters still do so afterwards; buffers that one holds by itself move with it alone.
        """
        for module in modules:
            module.to(self.device).to(memory_format=torch.channels_last)

    def tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Return an array on the device; to CUDA through pinned memory, without waiting for the copy."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.kind != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def autocast(self) -> Any:
        """Return the context of a forward pass."""
        if self.precision in _AUTOCAST:
            return torch.autocast(self.kind, _AUTOCAST[self.precision])
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take a step and forget the gradient."""
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    @property
    def overflows(self) -> bool:
        """Whether gradients overflow at any scale: then no step is taken at all. Waits for the device."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE

    def seed(self, seed: int) -> None:
        """Seed the generators that networks on this device draw from."""
        if self.kind == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed reaches every device of the machine
        else:
            torch.manual_seed(seed)

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """Keep PyTorch's random generators as they were, whatever is seeded and drawn inside."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if self.kind == "cuda" else []):
            own = torch.mps.get_rng_state() if self.kind == "mps" else None
            try:
                yield
            finally:
                if own is not None:
                    torch.mps.set_rng_state(own)
