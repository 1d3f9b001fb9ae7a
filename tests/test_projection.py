"""Random projections that are the same for ever, and principal components that survive a file."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from data.errors import MissingFile, ProjectionError
from extract.projection import Projection, fit_pca, load_pca, parse_projection, random_projection, save_pca


def features(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) * np.linspace(3, 0.1, d) + 5).astype(np.float32)


@pytest.mark.parametrize("text", ["random:256:0", "random:1:17", f"pca:64:sha256:{'0a' * 32}"])
def test_a_projections_form_is_read_and_written(text):
    assert str(parse_projection(text)) == text


def test_a_projections_parts():
    assert parse_projection("random:8:3") == Projection("random", 8, seed=3)
    assert parse_projection(f"pca:8:sha256:{'ab' * 32}") == Projection("pca", 8, digest=f"sha256:{'ab' * 32}")


@pytest.mark.parametrize(
    "text",
    ["", "random", "random:0:1", "random:8", "random:8:-1", "random:8:1:2", "pca:8", "pca:8:sha256:00", "umap:2:0"],
)
def test_other_projections_are_refused(text):
    with pytest.raises(ProjectionError, match="write random:DIM:SEED or pca:DIM:sha256:HEX"):
        parse_projection(text)


def test_a_random_projection_is_the_same_for_ever():
    # Pinned: features of any earlier version must still be what their spec says.
    signs = random_projection(1000, 100, 7) > 0
    digest = hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()
    assert digest == "d23650c5c0a762081cc52ec64867cbeefec5c4eb2308c55fb606e466c6741c99"


def test_a_random_projections_coins_are_those_of_the_documentation():
    expected = np.empty((5, 12))
    for row in range(5):
        coins = hashlib.shake_256(f"penult random projection 1:3:{row}".encode()).digest(2)
        bits = f"{int.from_bytes(coins, 'big'):016b}"[:12]
        expected[row] = [1 if bit == "1" else -1 for bit in bits]
    got = random_projection(5, 12, 3)
    assert got.dtype == np.float32
    assert np.array_equal(got, (expected / np.sqrt(12)).astype(np.float32))
    assert np.array_equal(random_projection(9000, 12, 3)[:5], got)


def test_a_random_projection_keeps_distances():
    X = features(40, 2000)
    Z = X @ random_projection(2000, 512, 0)
    pairs = np.triu_indices(40, 1)
    before, after = (np.linalg.norm(A[pairs[0]] - A[pairs[1]], axis=1) for A in (X, Z))
    ratio = after / before
    # the standard deviation of a squared ratio is about sqrt(2 / 512) = 0.06, of the ratio half of that
    assert abs(ratio.mean() - 1) < 0.03
    assert abs(ratio - 1).max() < 0.2
    assert not np.array_equal(random_projection(2000, 512, 1), random_projection(2000, 512, 0))


def test_a_random_projection_without_size_is_refused():
    for sizes in ((0, 4, 0), (4, 0, 0), (4, 4, -1)):
        with pytest.raises(ProjectionError, match="sizes begin at 1, seeds at 0"):
            random_projection(*sizes)


@pytest.mark.parametrize(("n", "d"), [(200, 30), (30, 200), (50, 50)])
def test_pca_is_that_of_the_singular_values(n, d):
    X = features(n, d)
    pca = fit_pca(X, 10)
    centred = X.astype(np.float64) - X.astype(np.float64).mean(0)
    _, _, V = np.linalg.svd(centred, full_matrices=False)
    cosines = np.abs((pca.components * V[:10]).sum(1))
    assert cosines.min() > 1 - 1e-6
    assert np.allclose(pca.components @ pca.components.T, np.eye(10), atol=1e-6)
    assert all(row[np.abs(row).argmax()] > 0 for row in pca.components)
    Z = pca.transform(X)
    assert Z.dtype == np.float32
    assert np.allclose(Z, centred @ pca.components.T.astype(np.float64), atol=1e-4)
    assert (np.diff(Z.var(0)) <= 0).all()
    assert fit_pca(X, 10).digest == pca.digest


def test_pca_of_vectors_that_vary_little_keeps_its_components_apart():
    # variances over ten orders of magnitude: the (n, n) matrix alone would leave them askew
    X = features(40, 500) * np.logspace(0, -5, 500, dtype=np.float32)
    components = fit_pca(X.astype(np.float64), 35).components
    assert np.allclose(components @ components.T, np.eye(35), atol=1e-5)


def test_more_components_than_there_are_are_refused():
    X = features(20, 50)
    with pytest.raises(ProjectionError, match="20 vectors of 50 numbers have at most 20 components, not 21"):
        fit_pca(X, 21)
    with pytest.raises(ProjectionError, match="vary in 19 directions only, not 20"):
        fit_pca(X, 20)  # their mean takes one
    with pytest.raises(ProjectionError, match="vary in 0 directions only"):
        fit_pca(np.ones((5, 3)), 1)
    with pytest.raises(ProjectionError, match="NaN or infinity"):
        fit_pca(np.full((5, 3), np.inf), 1)
    with pytest.raises(ProjectionError, match="not on an array of"):
        fit_pca(np.ones(5), 1)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ProjectionError, match="a PCA of 50 numbers a vector cannot project features of shape .2, 49."):
        fit_pca(features(20, 50), 3).transform(np.ones((2, 49)))


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path):
    pca = fit_pca(features(20, 50), 3)
    save_pca(tmp_path / "a.pca", pca)
    save_pca(tmp_path / "b.pca", pca)
    held = load_pca(tmp_path / "a.pca")
    assert np.array_equal(held.mean, pca.mean)
    assert np.array_equal(held.components, pca.components)
    assert held.digest == pca.digest
    assert parse_projection(held.projection) == Projection("pca", 3, digest=pca.digest)
    assert (tmp_path / "a.pca").read_bytes() == (tmp_path / "b.pca").read_bytes()


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.pca"
    with pytest.raises(MissingFile, match="fit a PCA first"):
        load_pca(path)
    save_pca(path, fit_pca(features(20, 50), 3))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProjectionError, match="a.pca is damaged"):
        load_pca(path)
    path.write_bytes(content[:-9])
    with pytest.raises(ProjectionError, match="cannot be read as a PCA"):
        load_pca(path)
    save_file({"mean": np.zeros(3, np.float32)}, path)
    with pytest.raises(ProjectionError, match="not a PCA of Penult's"):
        load_pca(path)
    save_file({"mean": np.zeros(3, np.float32)}, path, metadata={"penult_pca": json.dumps({"format": 2})})
    with pytest.raises(ProjectionError, match="reads up to 1: update Penult"):
        load_pca(path)
    save_file({"mean": np.zeros(3, np.float32)}, path, metadata={"penult_pca": json.dumps({"format": 1})})
    with pytest.raises(ProjectionError, match="cannot be read as a PCA"):
        load_pca(path)
