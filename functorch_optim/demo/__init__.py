"""The demo: a small convolutional network learns scikit-learn's handwritten digits. ``python -m functorch_optim.demo``

The loop is functional: a jitted step of loss, gradients and update. After every epoch the parameters and the
optimizer's state are written to a checkpoint, which ``torch.load`` reads too, and ``--resume`` continues from it to the
same bits as a run that was never stopped. The same training then runs once more, from the same start, as a torch user
would write it, and the largest difference between the two is printed.

The library itself imports nothing from here.
"""
