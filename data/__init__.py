"""Pictures, specs and the feature store: what both stages share.

May import the standard library, numpy, rich, zlib-ng and h5py (h5py in `layout` and `views` alone), and nothing of
`extract`, `classify` or `finetune`. It holds code: pictures and stores live elsewhere.
"""

VERSION = "0.1.0"
