"""The demo's pictures: scikit-learn's handwritten digits, written out as a folder of PNG files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data.staging import write_atomically

# Of each ten pictures of a class, in scikit-learn's order, the last three are for testing.
_TEST_OF_TEN = 3


def write_digits(folder: Path) -> int:
    """Write the 1,797 digits (8 x 8 grey) below ``train/`` and ``test/``, a folder for each class.

    Parameters
    ----------
    folder : Path
        Made if need be; pictures that are there already are left as they are.

    Returns
    -------
    int
        How many pictures there are.
    """
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    counts = dict.fromkeys(range(10), 0)
    for pixels, target in zip(images.reshape(-1, 8, 8), targets.tolist(), strict=True):
        number = counts[target]
        counts[target] += 1
        split = "test" if number % 10 >= 10 - _TEST_OF_TEN else "train"
        path = folder / split / str(target) / f"{number:03d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # 0 .. 16 in the original, 0 .. 255 in the file
            png = io.BytesIO()
            Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(png, "png")
            write_atomically(path, png.getvalue())
    return len(targets)
