import dataclasses
import json

import h5py
import numpy as np
import pytest
from conftest import SPEC, make_view, penult, vectors_of

from data.errors import MissingFile
from data.publish import publish
from data.staging import staged_blocks
from data.verify import verify_store


@pytest.fixture
def store(tmp_path, stage):
    path = tmp_path / "f.h5"
    rows = list(range(300))
    stage(path, rows)
    publish(path, make_view(rows), commands={SPEC.fingerprint: {}})
    return path


def test_a_sound_store_has_no_problems(store):
    verdict = verify_store(store)
    assert (verdict.problems, verdict.rows, verdict.blocks, verdict.views, verdict.missing) == ([], 300, 2, 1, {})


def test_every_flipped_bit_of_the_vectors_is_found(store):
    clean = store.read_bytes()
    with h5py.File(store) as file:
        vectors = file["features"][SPEC.fingerprint]["vectors"]
        chunks = [vectors.id.get_chunk_info(i) for i in range(vectors.id.get_num_chunks())]
        row_bytes = vectors.shape[1] * 4
        used = {c.chunk_offset[0]: min(256, len(vectors) - c.chunk_offset[0]) * row_bytes for c in chunks}
    rng = np.random.default_rng(0)
    spots = [(c, int(b)) for c in chunks for b in rng.choice(used[c.chunk_offset[0]] * 8, 150, replace=False)]
    for chunk, bit in spots:
        damaged = bytearray(clean)
        damaged[chunk.byte_offset + bit // 8] ^= 1 << bit % 8
        store.write_bytes(damaged)
        problems = verify_store(store).problems
        first = chunk.chunk_offset[0]
        assert any(f"rows {first} to" in p and "checksum" in p for p in problems), (first, bit)


def test_flipped_bits_anywhere_never_pass_for_other_content(store):
    clean = store.read_bytes()
    rng = np.random.default_rng(1)
    silent = 0
    for bit in rng.choice(len(clean) * 8, 300, replace=False):
        damaged = bytearray(clean)
        damaged[bit // 8] ^= 1 << bit % 8
        store.write_bytes(damaged)
        try:
            verdict = verify_store(store)
        except (OSError, ValueError):  # no longer recognised as a store at all
            continue
        if not verdict.problems:
            silent += 1
            with h5py.File(store) as file:  # the bit lay in unused space: all content is as it was
                group = file["features"][SPEC.fingerprint]
                assert (group["vectors"][:] == vectors_of(list(range(300)))).all()
                assert (group["digest"][:] == make_view(list(range(300))).digests).all()
    assert silent < 300


def test_damage_to_the_view_is_found(store):
    content = store.read_bytes()
    store.write_bytes(content.replace(b"00007.png", b"00077.png", 1))
    assert "image set 'toys' does not match its checksum" in verify_store(store).problems[0]


def test_staged_blocks_are_checked_too(store, stage):
    block = stage(store, [500, 501])
    assert verify_store(store).staged == 1
    damaged = bytearray(block.read_bytes())
    damaged[bytes(damaged).find(vectors_of([501]).tobytes())] ^= 1
    block.write_bytes(damaged)
    assert any(str(staged_blocks(store)[0]) in p for p in verify_store(store).problems)


def test_nan_is_found(store, stage):
    with h5py.File(store, "r+") as file:
        group = file["features"][SPEC.fingerprint]
        vectors = group["vectors"][:256]
        vectors[3, 3] = np.nan
        group["vectors"][:256] = vectors
        from data.layout import block_checksum

        group["checksum"][0] = block_checksum(group["digest"][:256], vectors)
    assert "holds NaN or infinity" in verify_store(store).problems[0]


def test_a_missing_store(tmp_path):
    with pytest.raises(MissingFile, match="does not exist"):
        verify_store(tmp_path / "no.h5")


def test_the_verb_fails_on_damage_and_names_the_rows(store):
    good = penult("verify", store, "--sample", "0", "--json", "-")
    assert good.returncode == 0
    assert json.loads(good.stdout)["problems"] == []
    content = bytearray(store.read_bytes())
    content[bytes(content).find(vectors_of([10]).tobytes())] ^= 1
    store.write_bytes(content)
    bad = penult("verify", store, "--sample", "0")
    assert bad.returncode == 1
    assert "rows 0 to 255" in bad.stderr
    assert "restore it from a copy" in bad.stderr


def test_two_sizes_of_one_layer_are_told_apart_and_one_is_one(tmp_path, stage):
    store = tmp_path / "f.h5"
    stage(store, [0, 1, 2])
    stage(store, [0, 1], dataclasses.replace(SPEC, crop=(128, 128)))
    publish(store, make_view([0, 1, 2, 3]), commands={})
    assert verify_store(store).missing == {
        "toys: timm/test_resnet/penultimate at 128x128": 2,
        "toys: timm/test_resnet/penultimate at 224x224": 1,
    }
    said = penult("verify", store, "--sample", "0").stdout
    assert said.startswith("1 file, 1 image set, 5 vectors in 2 blocks: every checksum is right\n")
    assert "note: 1 picture of toys: timm/test_resnet/penultimate at 224x224 has no vector\n" in said
