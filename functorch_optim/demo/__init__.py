"""The demo: a small convolutional network learns scikit-learn's handwritten digits. ``python -m functorch_optim.demo``

The loop is functional: one jitted step computes loss, gradients and update. After every epoch it writes the parameters
and the optimizer's state to a checkpoint, which ``torch.load`` reads too; ``--resume`` continues from it to the same
bits as an uninterrupted run. Then the same training runs again from the same start, as a torch user would write it, and
the demo prints the largest difference between the two.

The library itself imports nothing from here.
"""
