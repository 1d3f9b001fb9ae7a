"""Stage two: classical classifiers on stored vectors, on a CPU, in seconds.

May import `data`, numpy, scipy, scikit-learn, joblib, threadpoolctl, safetensors, rich and Pillow, and matplotlib to draw;
never torch, `extract` or `finetune`.
"""
