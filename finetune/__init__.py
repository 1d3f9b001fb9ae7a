"""Stage three: training the whole network, to answer 'would it have been worth it?'.

May import `extract` and `data`; never `classify`: a trained network reaches it as a file, and a head comes from it as
plain arrays, through `verbs`.
"""
