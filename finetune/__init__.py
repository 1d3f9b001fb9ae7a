"""Stage three: training the whole network, to answer 'would it have been worth it?'.

May import `extract` and `data`; never `classify`. It holds no code yet: the verb `finetune` is not offered
until it does.
"""
