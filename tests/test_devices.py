"""The way of a training to a GPU and back, on a CPU that is taken for one."""

import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import X, trainer, weights
from torch import fx, nn

from finetune.cached import Behind
from finetune.devices import Runner
from finetune.surgery import Rest, Tuned


class FakeDevice:
    """A CUDA or MPS device that is the CPU: what would run there is written down."""

    def __init__(self, monkeypatch, kind):
        self.calls = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * (kind == "cuda"))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        real_to, real_module_to, real_autocast = torch.Tensor.to, nn.Module.to, torch.autocast

        def to(tensor, *args, **kwargs):
            if args and str(args[0]).startswith(kind):
                self.calls.append(("copy", tensor.dtype, kwargs.get("non_blocking", False)))
                args = ("cpu", *args[1:])
            return real_to(tensor, *args, **kwargs)

        def module_to(module, *args, **kwargs):
            self.calls.append(("move", *args, *kwargs.values()))
            return real_module_to(module, *[a for a in args if not str(a).startswith(kind)], **kwargs)

        def pin(tensor):
            self.calls.append(("pin",))
            return tensor

        def autocast(device, dtype):
            self.calls.append(("autocast", device, dtype))
            return real_autocast("cpu", torch.bfloat16)

        @contextlib.contextmanager
        def fork(devices):
            self.calls.append(("fork", *devices))
            yield
            self.calls.append(("joined", *devices))

        monkeypatch.setattr(torch.Tensor, "to", to)
        monkeypatch.setattr(nn.Module, "to", module_to)
        monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
        monkeypatch.setattr(torch, "autocast", autocast)
        monkeypatch.setattr(torch.random, "fork_rng", fork)
        monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
        monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: self.calls.append(("restore", state)))
        health = "_accelerator_graph_capture_health_check"  # of the optimizers, which asks the driver
        monkeypatch.setattr(torch.optim.Optimizer, health, lambda _: None, raising=False)

    def of(self, kind):
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_the_way_to_cuda(monkeypatch, tmp_path, device):
    fake = FakeDevice(monkeypatch, "cuda")
    job = trainer(tmp_path / "s", class_weight="balanced", mixup=0.2, precision="auto")
    runner = job.runner = Runner(device)
    assert (runner.device, runner.precision) == (device, "fp16")
    assert runner.scaler.is_enabled()
    runner.place(job.course.network)
    assert fake.of("move") == [(device,), (torch.channels_last,)]
    before = weights(job)
    job.run()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(job).items())
    assert set(fake.of("autocast")) == {("cuda", torch.float16)}
    # every device, since PyTorch seeds them all
    assert fake.of("fork") == fake.of("joined") == [(0, 1)]
    copies = fake.of("copy")
    assert len(fake.of("pin")) == len(copies)
    assert {waits for _, waits in copies} == {True}
    assert {dtype for dtype, _ in copies} == {torch.float32, torch.int64}
    assert {tensor.device.type for tensor in load_file(tmp_path / "s").values()} == {"cpu"}


def test_the_way_to_mps_neither_pins_nor_sends_what_it_lacks(monkeypatch, tmp_path):
    fake = FakeDevice(monkeypatch, "mps")
    job = trainer(tmp_path / "s", class_weight="balanced", mixup=0.2, precision="auto")
    job.runner = Runner()
    assert (job.runner.device, job.runner.precision) == ("mps", "float32")
    assert not job.runner.scaler.is_enabled()
    job.runner.place(job.course.network)
    job.run()
    assert fake.of("pin") == fake.of("autocast") == []
    assert torch.float64 not in {dtype for dtype, _ in fake.of("copy")}
    assert {waits for _, waits in fake.of("copy")} == {False}
    assert fake.of("restore") == [("before",)]


def test_a_training_stopped_on_a_gpu_goes_on_on_a_cpu_and_back(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        FakeDevice(patch, "cuda")
        job = trainer(tmp_path / "s", epochs=4, optimizer="adamw", precision="auto")
        job.runner = Runner("cuda")
        job.on_step = lambda done, total: done < 4 or (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    on_cpu = trainer(tmp_path / "s", epochs=4, optimizer="adamw", precision="auto")
    on_cpu.on_step = lambda done, total: done < 8 or (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        on_cpu.run()
    FakeDevice(monkeypatch, "cuda")
    back = trainer(tmp_path / "s", epochs=4, optimizer="adamw", precision="auto")
    back.runner = Runner("cuda")
    assert back.run().resumed == 2
    assert np.isfinite(back.scores(np.arange(len(X)))).all()


def test_what_a_cut_network_holds_by_itself_moves_with_it():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 8)
            self.register_buffer("table", torch.ones(8))

        def forward(self, x):
            return self.layer(x) * self.table

    body = Scaled()
    network = Tuned(body, 8, 3)
    traces = [fx.GraphModule(body, fx.Tracer().trace(body)) for _ in range(2)]
    path = Behind(Rest(*traces, (6,)), network)
    runner = Runner("cpu")
    runner.device = "meta"  # a device without values
    runner.place(network, path)
    assert {t.device.type for t in (*path.state_dict().values(), *network.state_dict().values())} == {"meta"}
    assert path.last.weight is network.last.weight
    assert traces[0].layer.weight is body.layer.weight
