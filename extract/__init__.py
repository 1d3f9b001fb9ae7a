"""Stage one: a frozen network over the pictures, once, into a store.

May import `data`, torch, torchvision, timm, safetensors, datasets, numpy, rich and Pillow;
never `classify` or `finetune`, nor scikit-learn, which `transformer` alone may.
"""

# Least cosine between an engine's output and the reference's for one picture: relative deviations up to 1.4%.
COSINE = 0.9999
