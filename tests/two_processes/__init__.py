"""What several processes do together: ``python -m tests.two_processes SCENARIO RANK PROCESSES PORT FOLDER``.

Each scenario also runs in one process with as many devices, so that a test can compare.
"""
