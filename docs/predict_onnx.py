"""python predict_onnx.py MODEL.onnx PICTURE...: an exported model with numpy, Pillow and onnxruntime alone."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, how = json.loads(about["classes"]), json.loads(about["preprocessing"])
for path in sys.argv[2:]:
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    w, h = picture.size
    scale = how["resize"] if how["fit"] == "squash" else int(how["resize"] * max(w, h) / min(w, h))
    size = (how["resize"], scale) if w <= h else (scale, how["resize"])
    picture = picture.resize(size, Image.Resampling[how["interpolation"].upper()])
    top, left = (round((side - crop) / 2) for side, crop in zip(size[::-1], how["crop"], strict=True))
    pixels = np.asarray(picture)[None, top : top + how["crop"][0], left : left + how["crop"][1]]
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})[0]
    print(path, classes[probabilities.argmax()], f"{probabilities.max():.6f}", sep="\t")
