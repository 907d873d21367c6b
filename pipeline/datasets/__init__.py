"""One data set a file: where it comes from, and what it becomes.

SOURCES      file -> where it is found, and its SHA-256
LICENCE      under which terms
CLASSES      names of the classes, in the order of their indices; empty where there are none
NETWORK      arguments that every network's constructor is given
SCALED       is the network's first input scaled by a z-score inside the graph?
SPLITS       split -> items
prepare(raw) -> arrays by name, first axis = unit: the graph's inputs, and the truth (``label`` where it is a class)
"""
