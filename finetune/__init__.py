"""Stage three: training the whole network, to answer 'would it have been worth it?'.

May import `extract`, `data`, torch, torchvision, timm, safetensors, numpy and rich; never `classify`: what both need,
such as a fitted head to start from, travels through `pipeline.py` as arrays.
"""
