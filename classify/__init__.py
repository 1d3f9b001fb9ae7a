"""Stage two: classical classifiers on stored vectors, on a CPU, in seconds.

May import `data`, numpy, scipy, scikit-learn, joblib, threadpoolctl, safetensors, rich and Pillow, and to draw
matplotlib; never torch, `extract` or `finetune`.
"""
