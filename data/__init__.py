"""Pictures, specs and the feature store: what both stages share.

May import the standard library, numpy, rich, zlib-ng, Pillow (in `pixels` alone), h5py (in `layout` and `views` alone)
and, inside functions, pyarrow, fsspec and pandas (in `export` alone); nothing of `extract`, `classify` or `finetune`.
It holds code: pictures and stores live elsewhere.
"""

VERSION = "0.1.0"
