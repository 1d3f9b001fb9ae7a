"""The way from files to vectors: order, bounds, failures and the end of every thread; with networks made of numpy."""

import dataclasses
import io
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest
from conftest import SPEC
from PIL import Image

from data.errors import BackboneError
from data.images import Content
from extract.flow import _AHEAD, SAMPLE, Batch, decoding, flow
from extract.networks import Feature, Network
from extract.preprocess import recipes
from extract.reader import Picture

TINY = dataclasses.replace(SPEC, resize=8, crop=(8, 8))


def picture(number):
    """Return a PNG that shows a number as its grey level, 1000 at most."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


class Fakes:
    """Pictures that take a while to read, and count who reads them."""

    def __init__(self, numbers, delays=None):
        self.contents = [picture(n) for n in numbers]
        self.delays = delays
        self.reads = Counter()
        self.lock = threading.Lock()

    def __len__(self):
        return len(self.contents)

    def title(self, index):
        return f"picture {index}"

    def read(self, index):
        if self.delays is not None:
            time.sleep(self.delays[index])
        with self.lock:
            self.reads[index] += 1
        return Content(self.contents[index], len(self.contents[index]), 10**18)


class Engine:
    """Gives each picture its number back; `gate` may hold it up, `act` may fail."""

    name, device, precision = "numpy", "cpu", "float32"
    clock = staticmethod(time.perf_counter)

    def __init__(self, batch_size=4, lanes=2, gate=None, act=None):
        self.batch_size, self.lanes, self.notes = batch_size, lanes, []
        self.gate, self.act = gate, act
        self.sizes = []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        if self.gate:
            assert self.gate.wait(20)
        if self.act:
            self.act(pixels)
        corner = pixels[:, 0, 0].astype(np.float32)
        return (corner[:, :1] + 256 * corner[:, 1:2],)


def network(view="center"):
    return Network([Feature(dataclasses.replace(TINY, view=view), {})])


def run(pictures, networks, engines, lacking=None, workers=2, start=None, indices=None):
    """Return all items of a flow; each network gets its engine at its first pictures."""

    def begin(number, first):
        networks[number].engine = engines[number]

    with decoding():
        yield from flow(
            pictures,
            range(len(pictures)) if indices is None else indices,
            networks,
            lacking=lacking or (lambda _: list(range(len(networks)))),
            start=start or begin,
            workers=workers,
        )


def penult_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("penult-") and t.is_alive()]


def rows(items, number=0):
    return [
        (p.index, float(v))
        for item in items
        if isinstance(item, Batch) and item.network == number
        for p, v in zip(item.pictures, item.vectors[0][:, 0], strict=True)
    ]


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("lanes", [1, 3])
def test_pictures_and_batches_come_in_order_whatever_takes_how_long(workers, lanes):
    rng = np.random.default_rng(0)
    numbers = rng.permutation(120).tolist()
    pictures = Fakes(numbers, rng.uniform(0, 0.004, 120))
    slow = Engine(5, lanes, act=lambda pixels: time.sleep(float(pixels[0, 0, 0, 0]) / 30_000))
    items = list(run(pictures, [network()], [slow], workers=workers))
    assert [item.index for item in items if isinstance(item, Picture)] == list(range(120))
    assert rows(items) == list(enumerate(map(float, numbers)))
    assert [len(item.pictures) for item in items if isinstance(item, Batch)] == [5] * 24
    assert set(pictures.reads.values()) == {1}
    seen = set()
    for item in items:  # every picture is handed out before a batch with it
        if isinstance(item, Picture):
            seen.add(item.index)
        else:
            assert {p.index for p in item.pictures} <= seen
    assert penult_threads() == []


def test_the_order_of_the_caller_counts():
    chosen = [5, 3, 9, 1]
    items = list(run(Fakes(range(10)), [network()], [Engine(3)], indices=chosen))
    assert rows(items) == [(i, float(i)) for i in chosen]


def test_what_is_in_a_batch_does_not_depend_on_time_or_threads():
    batches = set()
    for workers, lanes in ((1, 1), (4, 2), (3, 5)):
        delays = np.random.default_rng(workers).uniform(0, 0.003, 50)
        items = run(Fakes(range(50), delays), [network()], [Engine(8, lanes)], workers=workers)
        batches.add(tuple(tuple(p.index for p in item.pictures) for item in items if isinstance(item, Batch)))
    assert len(batches) == 1


def test_reading_ahead_waits_for_a_slow_network():
    gate = threading.Event()
    pictures = Fakes(range(400))
    engine = Engine(4, 2, gate)
    items = []

    def consume():
        items.extend(run(pictures, [network()], [engine], workers=3))

    thread = threading.Thread(target=consume)
    thread.start()
    before = -1
    while sum(pictures.reads.values()) > before:  # until nothing moves any more
        before = sum(pictures.reads.values())
        time.sleep(0.4)
    # 64 wait read (`ahead`) with one for each reader, in flight are three batches, one is in the making
    bound = _AHEAD + 3 + 1 + 4 * (2 + 1) + 4 + SAMPLE
    assert 16 <= before <= bound
    gate.set()
    thread.join(30)
    assert rows(items) == [(i, float(i)) for i in range(400)]


@pytest.mark.parametrize("view", ["center", "mean(center,flip,top-left,random:0:0)"])
def test_pictures_held_in_memory_do_not_grow_with_their_number(view):
    most = {}
    for n in (100, 500):
        alive, peak = set(), 0
        for item in run(Fakes(range(n)), [network(view)], [Engine(4)], workers=2):
            if isinstance(item, Picture):
                for number, made in enumerate(item.inputs.values()):
                    key = (item.index, number)
                    alive.add(key)
                    weakref.finalize(made, alive.discard, key)
            del item
            peak = max(peak, len(alive))
        most[n] = peak
    views = len(recipes(dataclasses.replace(TINY, view=view)))
    # handed out and not yet through the network: the first 8, or a batch in the making, and those in flight
    assert most[500] <= views * (SAMPLE + 4 * 4)
    assert most[500] <= most[100] + views * 4


def test_copies_are_computed_once_where_the_caller_says_so():
    numbers = [0, 1, 0, 2, 1, 0, 3, 3, 3] * 10
    given = set()
    engine = Engine(4)
    items = []
    for item in run(Fakes(numbers), [network()], [engine], lacking=lambda d: [] if d in given else [0]):
        items.append(item)
        if isinstance(item, Picture):
            given.add(item.digest)
    assert rows(items) == [(0, 0.0), (1, 1.0), (3, 2.0), (6, 3.0)]
    assert sum(isinstance(item, Picture) for item in items) == len(numbers)


def test_each_network_sees_what_it_lacks_in_batches_of_its_own_size():
    networks = [network(), network("flip"), network("top-left")]
    engines = [Engine(3), Engine(16), Engine(1)]
    pictures = Fakes(range(40))
    digests = {}

    def lacking(digest):
        number = digests.setdefault(digest, len(digests))
        return [0, 1] if number % 2 else [0]  # the third has seen everything

    items = list(run(pictures, networks, engines, lacking, workers=1))
    assert rows(items, 0) == [(i, float(i)) for i in range(40)]
    assert len(rows(items, 1)) == 20
    assert rows(items, 2) == []
    assert engines[0].sizes == [3] * 13 + [1]
    assert sorted(engines[1].sizes) == [4, 16]
    assert networks[2].engine is None  # never started
    assert set(pictures.reads.values()) == {1}


def test_only_what_is_lacking_is_decoded():
    items = list(run(Fakes(range(5)), [network(), network("flip")], [Engine(), Engine()], lambda _: [1]))
    (recipe,) = recipes(dataclasses.replace(TINY, view="flip"))
    assert all(set(item.inputs) == {recipe} for item in items if isinstance(item, Picture))


def test_a_network_starts_on_its_first_pictures_and_with_fewer_if_there_are_no_more():
    for n, sample in ((50, SAMPLE), (3, 3), (SAMPLE, SAMPLE)):
        (net,), firsts = (network(),), []

        def start(number, first, net=net, firsts=firsts):
            firsts.append([p.index for p in first])
            net.engine = Engine()

        items = list(run(Fakes(range(n)), [net], [None], start=start))
        assert firsts == [list(range(sample))]
        assert len(rows(items)) == n


def test_no_pictures_are_no_batches():
    assert list(run(Fakes([]), [network()], [Engine()])) == []
    assert penult_threads() == []


def test_a_picture_that_cannot_be_read_or_decoded_is_handed_out_with_its_reason():
    class Bad(Fakes):
        def read(self, index):
            if index == 3:
                raise PermissionError(13, "Permission denied")
            return super().read(index)

    pictures = Bad(range(10))
    pictures.contents[5] = b"no picture"
    items = list(run(pictures, [network()], [Engine()]))
    reasons = {item.index: item.reason for item in items if isinstance(item, Picture) and item.reason}
    assert reasons[3] == "cannot be read: permission denied"
    assert reasons[5].startswith("no picture that Pillow can read")
    assert [i for i, _ in rows(items)] == [0, 1, 2, 4, 6, 7, 8, 9]


def failing(after, error):
    """Return what an engine does: nothing, and then it fails."""
    calls = []

    def act(_):
        calls.append(1)
        if len(calls) > after:
            raise error

    return act


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("error", [BackboneError("it failed"), MemoryError(), KeyboardInterrupt()])
def test_what_a_network_raises_comes_out_and_ends_all_threads(after, error):
    delays = np.full(300, 0.001)
    items = run(Fakes(range(300), delays), [network()], [Engine(act=failing(after, error))], workers=3)
    with pytest.raises(type(error)):
        list(items)
    assert penult_threads() == []


def test_what_start_raises_comes_out_and_ends_all_threads():
    def start(number, first):
        raise BackboneError("no such engine")

    pictures = Fakes(range(200))
    with pytest.raises(BackboneError, match="no such engine"):
        list(run(pictures, [network()], [None], start=start))
    assert penult_threads() == []
    assert sum(pictures.reads.values()) < 100


def test_what_a_source_of_pictures_gets_wrong_comes_out_and_ends_all_threads():
    class Broken(Fakes):
        def read(self, index):
            if index == 60:
                raise ZeroDivisionError
            return super().read(index)

    with pytest.raises(ZeroDivisionError):
        list(run(Broken(range(200)), [network()], [Engine()]))
    assert penult_threads() == []


@pytest.mark.parametrize("at", [1, 100])
def test_ctrl_c_at_the_caller_ends_all_threads(at):
    def consume():
        for number, _ in enumerate(run(Fakes(range(300)), [network()], [Engine()])):
            if number == at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert penult_threads() == []


def test_a_flow_that_is_given_up_ends_its_threads():
    items = run(Fakes(range(300)), [network()], [Engine()])
    next(items)
    assert penult_threads()
    items.close()
    assert penult_threads() == []


@pytest.mark.parametrize("lanes", [(1, 3), (3, 1)])
def test_a_network_of_one_lane_never_runs_in_two_whichever_comes_first(lanes):
    together: list[list[int]] = [[0, 0], [0, 0]]
    lock = threading.Lock()

    def act(number):
        def count(_):
            with lock:
                together[number][0] += 1
                together[number][1] = max(together[number])
            time.sleep(0.01)
            with lock:
                together[number][0] -= 1

        return count

    engines = [Engine(4, n, act=act(i)) for i, n in enumerate(lanes)]
    items = list(run(Fakes(range(60)), [network(), network("flip")], engines))
    assert [number for number, _ in rows(items, 1)] == list(range(60))
    most = dict(zip(lanes, (most for _, most in together), strict=True))
    assert most[1] == 1
    assert most[3] > 1


def test_the_seconds_of_a_batch_are_its_engines():
    ticks = iter(range(0, 10_000, 7))
    engine = Engine(5, lanes=1)
    engine.clock = lambda: next(ticks)
    items = run(Fakes(range(20)), [network()], [engine])
    assert [item.seconds for item in items if isinstance(item, Batch)] == [7] * 4


def test_vectors_are_averaged_and_made_one_long():
    specs = [
        dataclasses.replace(TINY, view="center"),
        dataclasses.replace(TINY, view="flip"),
        dataclasses.replace(TINY, view="mean(center,flip)"),
        dataclasses.replace(TINY, view="mean(center,flip)", normalize="l2"),
    ]
    net = Network([Feature(spec, {}) for spec in specs])
    assert len(net.recipes) == 2  # each view is made once
    calls = []

    class Sides(Engine):
        def forward(self, pixels):
            calls.append(1)
            return (pixels.reshape(len(pixels), -1).astype(np.float32),)

    net.engine = Sides()
    rng = np.random.default_rng(0)
    inputs = [{r: rng.integers(0, 256, (8, 8, 3)).astype(np.uint8) for r in net.recipes} for _ in range(3)]
    inputs.append({r: np.zeros((8, 8, 3), np.uint8) for r in net.recipes})
    center, flip, mean, unit = net.compute(inputs)
    assert len(calls) == 2
    assert all(v.dtype == np.float32 for v in (center, flip, mean, unit))
    assert np.array_equal(mean, (center + flip) / 2)
    lengths = np.linalg.norm(unit, axis=1)
    assert np.allclose(lengths[:3], 1, atol=1e-6)
    assert np.array_equal(unit[3], np.zeros(192))  # a zero vector stays one
    assert np.allclose(unit[:3] * np.linalg.norm(mean[:3], axis=1, keepdims=True), mean[:3], rtol=1e-5)
