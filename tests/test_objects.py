import concurrent.futures
import io
import pickle

import numpy as np
import pytest
from conftest import draw, penult
from PIL import Image

from data.errors import ImageSetError, StoreError
from data.images import PictureList, open_images
from data.pixels import encode
from extract.decode import decode
from extract.extractor import Extractor
from extract.wanted import Wanted

torchvision = pytest.importorskip("torchvision")
NETWORK = [Wanted("timm/test_resnet", "random")]


def noise(seed, *shape, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size=shape, dtype=dtype)


class Toys:
    """A data set like torchvision's own: pixels in memory, labels by number."""

    classes = ("bear", "ant")

    def __init__(self, n=6, hue=0):
        self.pictures = [noise(10 * hue + i, 8, 9, 3) for i in range(n)]
        self.targets = [i % 2 for i in range(n)]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return Image.fromarray(self.pictures[index]), self.targets[index]


@pytest.mark.parametrize("pixels", [noise(0, 5, 7), noise(1, 5, 7, 1), noise(2, 5, 7, 3), noise(3, 300, 260, 4)])
def test_pixels_come_back_from_their_file_bit_for_bit(pixels):
    data = encode(pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels.squeeze())
    assert encode(Image.fromarray(pixels.squeeze())) == data == encode(pixels.copy())


def test_other_kinds_of_pixels_follow_the_written_rule():
    wide = noise(4, 5, 7, dtype=np.uint16)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(wide)))), wide)
    assert encode(Image.fromarray(wide)) == encode(wide)
    grey = np.array([[True, False]])
    assert encode(grey) == encode(Image.fromarray(grey)) == b"P5 2 1 255\n\xff\x00"
    rgb = Image.fromarray(noise(5, 5, 7, 3))
    for mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        assert encode(rgb.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (2, 2)))[:2] == b"P6"
    # as the same picture in a file would be decoded: transparency and orientation included
    clear = Image.fromarray(noise(6, 5, 7, 4))
    clear.getexif()[0x0112] = 6
    file = io.BytesIO()
    clear.save(file, "PNG", exif=clear.getexif())
    assert np.array_equal(np.asarray(decode(encode(Image.open(file)))), np.asarray(decode(file.getvalue())))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4)), "float64 is no picture"),
        (np.zeros((3, 8, 8), dtype=np.uint8), "is no picture: give .height, width"),
        (np.zeros((0, 4), dtype=np.uint8), "has no pixels"),
        (Image.new("F", (2, 2)), "mode F .* no agreed range"),
        ("x.png", "a picture is str: give PIL images or uint8 arrays"),
    ],
)
def test_what_is_no_picture_says_so(picture, words):
    with pytest.raises(ValueError, match=words):
        encode(picture)


def test_a_data_set_in_memory():
    toys = Toys()
    images = open_images(toys)
    assert (images.name, images.root, images.paths) == ("Toys", "object:Toys", ["0", "1", "2", "3", "4", "5"])
    assert images.classes == ["ant", "bear"]
    assert images.targets.tolist() == [1, 0, 1, 0, 1, 0]
    for picked in (images, pickle.loads(pickle.dumps(images))):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert [c.data for c in pool.map(picked.read, range(6))] == [encode(p) for p in toys.pictures]
    with pytest.raises(OSError, match=r"it came from a Python object \(Toys\), which only Python can open again"):
        PictureList([(images.root, images.paths[0])]).read(0)


def test_a_list_of_pairs_and_a_data_set_for_each_split():
    pairs = [(noise(i, 4, 4, 3), label) for i, label in enumerate(["b", "a", None, 7])]
    images = open_images(pairs, "pairs")
    assert (images.name, images.classes, images.targets.tolist()) == ("pairs", ["7", "a", "b"], [2, 1, -1, 0])
    both = open_images({"train": Toys(4), "valid": Toys(2, hue=1)})
    assert both.paths == ["train/0", "train/1", "train/2", "train/3", "valid/0", "valid/1"]
    assert both.splits.tolist() == ["train"] * 4 + ["val"] * 2
    assert both.read(5).data == encode(Toys(2, hue=1).pictures[1])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((x for x in range(3)), "generator has no length or no index"),
        ([], "list holds no pictures"),
        ([noise(0, 4, 4, 3)], "item 0 of list is ndarray: each must be"),
        ([(noise(0, 4, 4, 3), {"boxes": []})], "a label is {'boxes': ..}, not one whole number or text"),
        ([(noise(0, 4, 4, 3), 0.5)], "a label is 0.5, not one whole number"),
        ({}, "the data set holds no pictures"),
    ],
)
def test_what_is_no_data_set_says_so(source, words):
    with pytest.raises(ImageSetError, match=words):
        open_images(source)


def test_a_torchvision_folder_is_read_from_its_files(pictures):
    from torchvision.datasets import ImageFolder

    images = open_images(ImageFolder(pictures / "train"))
    folder = open_images(pictures / "train")
    assert (images.root, images.paths, images.classes) == (folder.root, folder.paths, folder.classes)
    assert np.array_equal(images.targets, folder.targets)
    assert np.array_equal(images.mtimes, folder.mtimes)
    assert images.read(3) == folder.read(3)


def test_a_data_set_that_fails_is_skipped_with_its_reason(tmp_path):
    class Broken(Toys):
        def __getitem__(self, index):
            if index == 1:
                raise KeyError("no such key")
            return super().__getitem__(index)

    store = tmp_path / "f.h5"
    result = Extractor(open_images(Broken()), store, NETWORK).run()
    assert [(s.path, s.reason) for s in result.skipped] == [
        ("1", "cannot be read: the data set raised keyerror: 'no such key'")
    ]
    assert result.extracted == 5


def test_another_object_of_the_same_type_is_not_taken_for_the_same_set(tmp_path):
    store = tmp_path / "f.h5"
    assert Extractor(open_images(Toys()), store, NETWORK).run().extracted == 6
    assert Extractor(open_images(Toys(8)), store, NETWORK).run().extracted == 2
    with pytest.raises(StoreError, match="give this one another name with --name"):
        Extractor(open_images(Toys(6, hue=9)), store, NETWORK).run()
    # what is gone with its process is no reason to doubt the store
    checked = penult("verify", store, "--sample", "3")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "no picture extracted again" in checked.stdout
    assert "3 files are gone or changed" in checked.stdout


hf = pytest.importorskip("datasets", reason="the extra [hub] is not installed")


@pytest.fixture
def table(tmp_path):
    """Return a Hugging Face data set of files' bytes, and these bytes."""
    contents = [draw(tmp_path / "drawn" / f"{i}.png", i, i % 2).read_bytes() for i in range(10)]
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["wolf", "bear"])})
    rows = {"image": [{"bytes": c, "path": None} for c in contents], "label": [i % 2 for i in range(10)]}
    return hf.Dataset.from_dict(rows, features=features), contents


def test_a_hugging_face_data_set_gives_the_bytes_of_its_files(table):
    data, contents = table
    for source in (data, data.with_format("numpy")):
        images = open_images(source, "animals")
        assert images.classes == ["bear", "wolf"]
        assert images.targets.tolist() == [1, 0] * 5
        for picked in (images, pickle.loads(pickle.dumps(images))):
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert [c.data for c in pool.map(picked.read, range(10))] == contents
    few = open_images(data.select([7, 2]))
    assert few.read(0).data == contents[7]
    both = open_images(hf.DatasetDict({"train": data.select(range(6)), "validation": data.select(range(6, 10))}))
    assert both.splits.tolist() == ["train"] * 6 + ["val"] * 4
    assert both.read(6).data == contents[6]


def test_a_hugging_face_data_set_whose_pictures_are_files(tmp_path):
    path = draw(tmp_path / "1.png", 1)
    data = hf.Dataset.from_dict({"image": [str(path)], "label": ["a"]}).cast_column("image", hf.Image())
    assert open_images(data).read(0).data == path.read_bytes()
    with pytest.raises(ImageSetError, match="none of them is an Image: cast"):
        open_images(hf.Dataset.from_dict({"text": ["x"]}))
