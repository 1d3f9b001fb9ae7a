"""Stage one: a frozen network over the pictures, once, into a store.

May import `data`, torch, torchvision, timm, huggingface_hub, onnx, onnxruntime, simplejpeg, pillow_heif, safetensors,
datasets, threadpoolctl, numpy, rich and Pillow, and in `raylink` alone ray, in `transformer` alone scikit-learn;
never `classify` or `finetune`.
"""

# Least cosine between an engine's output and the reference's for one picture: relative deviations up to 1.4%.
COSINE = 0.9999
