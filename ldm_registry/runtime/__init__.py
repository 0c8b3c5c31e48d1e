"""How a stage is run, as the `runtime:` of a spec says: compiled, or waiting elsewhere until its turn.

What does it stands in for the one method of a part that everybody calls, on that very object: whoever calls the part
gets it, and the part's modules, tensors and their names stay as they are.
"""
