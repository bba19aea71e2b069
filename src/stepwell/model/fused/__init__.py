"""Decoder layers of the Llama shape as one program of kernels, instead of some 60 torch calls.

    recognize  which layers are of that shape, and their parts
    workspace  the rows that kernels write, allocated once per bucket of rows
    records    what each kernel of a program is told
    stack      the module that stands in for the model's list of layers
    forward    a pass through such a model

Owns: composing kernels into layers, and the rows between them. Does not own: weights (the layers'
own packed linears and norms, wherever their data is), kernels, or the pool.

Importing `stack` imports numba; this package and `forward` do not.
"""
