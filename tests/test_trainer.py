"""The loop on small arrays: rates, losses, precision, and what a stopped run leaves."""

import errno
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import finetune.state
from data.errors import DiskFull, Diverged, TrainingError
from finetune.course import Course
from finetune.devices import Runner
from finetune.strategies import Strategy
from finetune.surgery import Depths, Freezing, Tuned
from finetune.trainer import Trainer, _split

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 6)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 0] * 4 + [1, 2, 0])
PLAIN = {"epochs": 2, "batch_size": 8, "lr": 0.1, "warmup": 0.0, "schedule": "constant", "precision": "float32"}


class Arrays:
    """A source of rows of an array that writes down whether it was closed."""

    def __init__(self, X):
        self.X = X
        self.open = 0

    def batches(self, groups, epoch=None):
        self.open += 1
        try:
            for rows in groups:
                yield self.X[rows]
        finally:
            self.open -= 1

    def prepare(self, batch):
        return batch


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU())


def trainer(state, layers=None, **changes):
    torch.manual_seed(1)
    layers = layers or body()
    network = Tuned(layers, 8, 3)
    depths = Depths({name: 0 for name, _ in layers.named_parameters()}, {})
    rows = np.arange(len(X))
    choose = rows[18:] if changes.get("keep", "best") == "best" else rows[:0]
    course = Course(network, network, Freezing(0, ()), depths, 1, Arrays(X), Y, rows[:18], choose)
    strategy = Strategy(**{**PLAIN, **changes})
    strategy.check()
    return Trainer(course, strategy, Runner("cpu", strategy.precision), state, "request")


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.course.network.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("parts", [3, 5])
def test_a_step_in_uneven_parts_is_the_same_step(tmp_path, parts, reduction):
    options = {"class_weight": "balanced", "label_smoothing": 0.1, "mixup": 0.4, "momentum": 0.0, "lr": 0.01}
    results = []
    for accumulate in (1, parts):
        job = trainer(tmp_path / str(accumulate), accumulate=accumulate, reduction=reduction, **options)
        history = job.run().epochs
        results.append((weights(job), [epoch.train_loss for epoch in history]))
    (one, losses), (other, others) = results
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert losses == pytest.approx(others, rel=1e-5)


def test_a_step_is_that_of_pytorchs_own_weighted_loss(tmp_path):
    job = trainer(
        tmp_path / "s", epochs=1, batch_size=18, class_weight="balanced", label_smoothing=0.2, momentum=0.0,
        keep="last", weight_decay=0.0, head_lr_factor=1.0,
    )  # fmt: skip
    network = job.course.network
    counts = np.bincount(Y[:18], minlength=3)
    weight = torch.from_numpy((18 / (3 * counts)).astype(np.float32))
    loss = F.cross_entropy(network(torch.from_numpy(X[:18])), torch.from_numpy(Y[:18]), weight, label_smoothing=0.2)
    loss.backward()
    wanted = {name: (p - 0.1 * p.grad).detach().clone() for name, p in network.named_parameters()}
    network.zero_grad()
    (epoch,) = job.run().epochs
    assert epoch.train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert all(torch.allclose(tensor, wanted[name], atol=1e-6) for name, tensor in weights(job).items())


def test_rates_for_a_picture_are_rates_for_a_step_by_its_pictures(tmp_path):
    plain = {"batch_size": 6, "weight_decay": 0.0, "keep": "last", "momentum": 0.0}
    one = trainer(tmp_path / "a", reduction="sum", lr=0.01, **plain)
    other = trainer(tmp_path / "b", reduction="mean", lr=0.06, **plain)
    one.run(), other.run()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(one).values(), weights(other).values()))  # noqa: B905


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"schedule": "step", "step_epochs": 2}, [1, 1, 1, 1, 0.1, 0.1]),
        ({"schedule": "step", "step_epochs": 2, "warmup": 1.0}, [0.25, 0.75, 1, 1, 0.1, 0.1]),
    ],
)
def test_every_step_of_an_epoch_has_the_epochs_rate(tmp_path, options, wanted):
    job = trainer(tmp_path / "s", epochs=3, batch_size=9, lr=1e-3, **options)
    rates, real = [], Runner.step

    class Spy(Runner):
        def step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            real(self, optimizer)

    job.runner = Spy("cpu", "float32")
    history = job.run().epochs
    assert rates == pytest.approx([1e-3 * factor for factor in wanted])
    assert [epoch.lr for epoch in history] == pytest.approx(rates[1::2])


def test_no_step_of_a_rising_and_falling_rate_is_wasted(tmp_path):
    job = trainer(tmp_path / "s", epochs=2, batch_size=18, schedule="cosine", warmup=1.0)
    assert all(epoch.lr > 0 for epoch in job.run().epochs)


def test_no_batch_has_one_picture():
    for n in range(2, 40):
        for size in (2, 3, 8):
            groups = _split(np.arange(n), size)
            assert min(map(len, groups)) >= 2
            assert max(map(len, groups)) <= size + 1
            assert np.array_equal(np.concatenate(groups), np.arange(n))


def test_bf16_on_a_cpu_trains_float32_weights(tmp_path):
    plain, half = (trainer(tmp_path / p, precision=p, epochs=4) for p in ("float32", "bf16"))
    plain.run(), half.run()
    assert {tensor.dtype for tensor in weights(half).values()} == {torch.float32}
    assert not equal(weights(plain), weights(half))
    ours, theirs = half.scores(np.arange(23)), plain.scores(np.arange(23))
    assert ours.dtype == np.float32
    assert np.allclose(ours, theirs, atol=0.1)


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_resumes(tmp_path):
    def job(name, **changes):
        made = trainer(tmp_path / name, precision="fp16", batch_size=18, reduction="sum", lr=1e-3, **changes)
        made.runner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
        return made

    before = weights(trainer(tmp_path / "n"))
    first = job("a", epochs=1)
    first.run()
    assert equal(weights(first), before)
    assert first.runner.scaler.get_scale() == 2.0**23
    whole = job("b", epochs=12)
    whole.run()
    assert not equal(weights(whole), before)

    real, job_c = Trainer._epoch, job("c", epochs=12)

    def dies(self, number, optimizer):
        if number == 7:
            raise KeyboardInterrupt
        return real(self, number, optimizer)

    job_c._epoch = dies.__get__(job_c)
    with pytest.raises(KeyboardInterrupt):
        job_c.run()
    again = job("c", epochs=12)
    assert again.run().resumed == 6
    assert equal(weights(again), weights(whole))
    assert again.runner.scaler.get_scale() == whole.runner.scaler.get_scale()


def test_what_a_network_keeps_of_a_measuring_pass_does_not_hinder_training(tmp_path):
    class Keeps(nn.Module):
        table = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.ones_like(x[:1]) * 2
            return x * self.table

    job = trainer(tmp_path / "s", nn.Sequential(*body(), Keeps(), nn.Linear(8, 8)))
    job.scores(np.arange(4))
    job.run()


def test_a_network_that_fails_is_told_with_what_may_help(tmp_path):
    class Fails(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    job = trainer(tmp_path / "s", nn.Sequential(*body(), Fails()))
    with pytest.raises(TrainingError, match=r"failed on 6 pictures \(CUDA out of memory.*GiB\): try a smaller --batch"):
        job.run()


@pytest.mark.parametrize(("done", "said"), [(0, "no epoch was finished"), (1, r"epochs are kept in .*s; run the same")])
def test_an_interruption_says_what_is_kept_and_closes_the_source(tmp_path, done, said):
    job = trainer(tmp_path / "s", epochs=3)

    def stop(steps, total):
        if steps > done * 3:
            raise KeyboardInterrupt

    job.on_step = stop
    with pytest.raises(KeyboardInterrupt, match=said):
        job.run()
    assert job.course.source.open == 0


def test_a_training_that_patience_ended_is_not_trained_further(tmp_path):
    options = {"epochs": 50, "lr": 1.0, "patience": 2}
    first = trainer(tmp_path / "s", **options)
    ended = first.run()
    assert len(ended.epochs) == ended.kept + 2 < 50
    told = []
    again = trainer(tmp_path / "s", **options)
    again.on_resume = told.extend
    resumed = again.run()
    assert resumed.resumed == len(ended.epochs) == len(resumed.epochs)
    assert told == ended.epochs
    assert equal(weights(again), weights(first))


def test_a_full_disk_loses_no_finished_epoch(tmp_path, monkeypatch):
    whole = trainer(tmp_path / "w", epochs=3)
    whole.run()
    real, written = finetune.state.write_atomically, []

    def full(path, content):
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(finetune.state, "write_atomically", full)
    with pytest.raises(DiskFull):
        trainer(tmp_path / "s", epochs=3).run()
    again = trainer(tmp_path / "s", epochs=3)
    assert again.run().resumed == 1
    assert equal(weights(again), weights(whole))


def test_what_a_killed_writer_left_of_a_state_is_removed(tmp_path):
    job = trainer(tmp_path / "net.ckpt.training", epochs=1)
    job.run()
    half = tmp_path / "net.ckpt.training.00000000-1-00000000.writing"
    half.write_bytes(b"half")
    os.utime(half, (1, 1))
    trainer(tmp_path / "net.ckpt.training", epochs=1).run()
    assert not half.exists()


def test_a_mixed_picture_is_right_by_the_shares_of_its_classes(tmp_path):
    job = trainer(tmp_path / "s", epochs=1, batch_size=18, mixup=1.0, lr=1e-9, keep="last")
    nn.init.normal_(job.course.network.last.weight, std=5.0)
    rng = np.random.default_rng([0, 1])
    rows = rng.permutation(np.arange(18))
    share = rng.beta(1.0, 1.0)
    other = rows[rng.permutation(18)]
    with torch.no_grad():
        x = torch.from_numpy(share * X[rows] + (1 - share) * X[other]).float()
        answers = job.course.network(x).argmax(dim=1).numpy()
    one, two = (answers == Y[rows]).mean(), (answers == Y[other]).mean()
    assert one != two
    wanted = share * one + (1 - share) * two
    assert job.run().epochs[0].train_accuracy == pytest.approx(wanted)


class Overflows(nn.Module):
    """Gives numbers until it has been called some times, then infinity."""

    def __init__(self, calls, training=True):
        super().__init__()
        self.calls = calls
        self.when = training

    def forward(self, x):
        if self.training == self.when:
            self.calls -= 1
            return x * float("inf") if self.calls == 0 else x
        return x


def test_a_loss_that_was_no_number_in_the_midst_of_an_epoch_stops_it(tmp_path):
    job = trainer(tmp_path / "s", nn.Sequential(*body(), Overflows(2)), batch_size=6, lr=0.0001)
    job.runner.step = lambda optimizer: optimizer.zero_grad()  # as mixed precision skips such a step
    with pytest.raises(Diverged, match=r"the loss is nan in epoch 1: lower the learning rate"):
        job.run()


def test_scores_that_are_no_numbers_are_not_taken_for_answers(tmp_path):
    job = trainer(tmp_path / "s", nn.Sequential(*body(), Overflows(1, training=False)), precision="fp16")
    with pytest.raises(Diverged, match="scores that are no numbers: take --precision bf16 or float32, lower the"):
        job.run()
    assert not (tmp_path / "s").exists()


def test_gradients_that_overflow_at_any_scale_are_no_training(tmp_path):
    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    class Layer(nn.Module):
        def forward(self, x):
            return NoGradient.apply(x)

    job = trainer(tmp_path / "s", nn.Sequential(*body(), Layer()), precision="fp16", epochs=30, batch_size=6)
    with pytest.raises(Diverged, match=r"every gradient overflows in epoch \d+, so that nothing is learnt: take"):
        job.run()


def test_an_optimizer_that_finds_no_memory_is_told_with_what_may_help(tmp_path):
    job = trainer(tmp_path / "s", optimizer="adamw", batch_size=6)

    def full(optimizer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    job.runner.step = full
    with pytest.raises(TrainingError, match=r"failed on 6 pictures \(CUDA out of memory\): try a smaller --batch-size"):
        job.run()


def test_what_an_optimizer_remembers_lies_in_memory_as_the_weights_do(tmp_path):
    def job():
        layers = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 8, 3, padding=1), nn.Flatten())
        made = trainer(tmp_path / "s", layers, epochs=4, optimizer="adamw")
        made.runner.place(made.course.network)
        return made

    job().run(until=2)
    again, seen = job(), []
    real = again.runner.step
    again.runner.step = lambda optimizer: (real(optimizer), seen.append(optimizer))
    assert again.run().resumed == 2
    weight = again.course.network.body[1].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert {seen[0].state[weight][name].stride() for name in ("exp_avg", "exp_avg_sq")} == {weight.stride()}


def test_training_leaves_random_generators_as_they_were(tmp_path):
    torch.manual_seed(5)
    job = trainer(tmp_path / "s")
    before = torch.get_rng_state()
    job.run()
    assert torch.equal(torch.get_rng_state(), before)
