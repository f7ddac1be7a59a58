"""Floor 6: an honest benchmark. All sides in one process, interleaved, checked against each other before timing.

It knows nothing of networks: a side is a function that builds something to call.
"""
