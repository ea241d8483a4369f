"""Claims of the paper and of those it cites, each run as an experiment that writes its own page.

A study is one module: what it claims to test, how large it is in full, and `run`, which takes a Bench and gives a Page.
"""
