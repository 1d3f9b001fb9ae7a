"""Results as JSON files: whole or not at all, and nothing else in their place."""

import json

from data.results import write_json


def test_whoever_reads_a_result_while_it_is_replaced_has_all_of_the_old_one(tmp_path):
    path = tmp_path / "r.json"
    write_json(str(path), {"n": [1] * 1000})
    with open(path) as reader:
        assert reader.read(1) == "{"
        write_json(str(path), {"n": 2})
        assert json.loads("{" + reader.read()) == {"n": [1] * 1000}
    assert json.loads(path.read_text()) == {"n": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(str(tmp_path / "link.json"), {"path": "caf\udce9.png", "x": float("nan")})
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text()) == {"path": "caf\\xe9.png", "x": None}
    write_json("/dev/null", {})
