"""The sharded demo: a transformer learns to write Python on eight devices. ``python -m functorch_optim.demo.sharded``

A run on a mesh of 4 x 2 devices, over which the batch and the layers are split, is killed while it trains. It resumes
from its checkpoint on a mesh of 2 x 4 devices. The demo compares its losses with those of a run that nobody killed.

The devices are eight parts of the CPU. The code is the same for eight GPUs or TPUs.
"""
