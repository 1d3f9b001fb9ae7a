"""python predict.py MODEL.onnx PICTURE...: an exported model with numpy, Pillow and onnxruntime alone."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *paths: str) -> None:
    """Print the path, the class and its probability for each picture."""
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map
    classes, how = json.loads(about["classes"]), json.loads(about["preprocessing"])
    for path in paths:
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        w, h = picture.size
        side, (short, long) = how["resize"], sorted(picture.size)
        sides = {"shorter": (side, int(side * long / short)), "squash": (side, side)}
        sides["pad"] = (max(round(side * short / long), 1), side)
        size = sides[how["fit"]] if w <= h else sides[how["fit"]][::-1]
        picture = picture.resize(size, Image.Resampling[how["interpolation"].upper()])
        crop, fill = how["crop"][::-1], [round(255 * mean) for mean in how["in_graph"]["mean"] * 3][:3]
        seen = Image.new("RGB", crop, tuple(fill))  # which shows beside a padded picture alone
        seen.paste(picture, tuple(-round((side - room) / 2) for side, room in zip(size, crop, strict=True)))
        (probabilities,) = session.run(["probabilities"], {"pixels": np.asarray(seen)[None]})[0]
        print(path, classes[probabilities.argmax()], f"{probabilities.max():.6f}", sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
