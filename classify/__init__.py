"""Stage two: classical classifiers on stored vectors, on a CPU, in seconds.

May import `data`, numpy, scipy, scikit-learn and safetensors; never torch, `extract` or `finetune`.
"""
