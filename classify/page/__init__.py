"""The report: one HTML page that needs no network, made from a store and heads. Imports `classify` and `data` alone.

`findings` measures, `words` says it in sentences, `feature_map` and `thumbnails` make what is looked at, and `assemble`
puts all of it into the template that lies beside them.
"""
