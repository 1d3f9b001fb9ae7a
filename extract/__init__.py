"""Stage one: a frozen network over the pictures, once, into a store.

May import `data`, torch, torchvision, timm, safetensors, datasets, numpy, rich and Pillow;
never scikit-learn, `classify` or `finetune`.
"""
