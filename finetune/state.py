"""What a training that was stopped leaves behind: one safetensors file, written whole after every epoch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from data.errors import TrainingError, first_line
from data.staging import disk_full_hint, sweep, temporaries, write_atomically
from finetune.devices import Runner

_KEY = "penult_training"


@dataclasses.dataclass(frozen=True)
class State:
    """A training between two epochs.

    Parameters
    ----------
    now, best : dict of str to Tensor
        What training changes of the network: as it is, and as it was at its best.
    optimizer : dict of str to Tensor
        ``PARAMETER.NAME``: what the optimizer remembers of each parameter, by its number.
    scaler : dict
        The state of mixed precision.
    kept : int
        Number of the best epoch.
    history : list of dict
        The epochs that are done.
    """

    now: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    scaler: dict[str, Any]
    kept: int
    history: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        now: dict[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        runner: Runner,
        best: dict[str, torch.Tensor],
        kept: int,
        history: list[dict[str, Any]],
    ) -> "State":
        """Take down where a training stands."""
        remembered = {
            f"{number}.{name}": torch.as_tensor(value)
            for number, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if value is not None
        }
        return cls(now, best, remembered, runner.scaler.state_dict(), kept, history)

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer, runner: Runner) -> None:
        """Put a training back to where it stood."""
        network.load_state_dict(self.now, strict=False)
        whole = optimizer.state_dict()
        whole["state"] = {}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for key, value in self.optimizer.items():
            number, _, name = key.partition(".")
            parameter = parameters[int(number)]
            if value.shape == parameter.shape:  # the file is contiguous: a step is fast where both lie alike
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            whole["state"].setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(whole)
        if self.scaler:
            runner.scaler.load_state_dict(self.scaler)


def write_state(path: Path, state: State, request: str) -> None:
    """Write a state over the one before; a crash leaves the one or the other.

    Raises
    ------
    DiskFull
        If it does not fit.
    """
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part in ("now", "best", "optimizer")
        for name, tensor in getattr(state, part).items()
    }
    facts = {"request": request, "scaler": state.scaler, "kept": state.kept, "history": state.history}
    content = save(tensors, metadata={_KEY: json.dumps(facts)})
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)


def read_state(path: Path, request: str) -> State | None:
    """Read the state that a run of the same request left; None if there is none.

    Raises
    ------
    TrainingError
        If it is of another request, or damaged.
    """
    sweep(temporaries(path))
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{path} is no state of a training ({first_line(error)}): remove it to start anew"
        ) from None
    if facts["request"] != request:
        raise TrainingError(
            f"{path} is of a training with other options or pictures: run that one to its end, or remove the file to "
            "start anew"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return State(**parts, scaler=facts["scaler"], kept=facts["kept"], history=facts["history"])


def clear_state(path: Path) -> None:
    """Remove a state."""
    path.unlink(missing_ok=True)
