"""The command lines of the demos."""

import argparse
from typing import NoReturn

from functorch_optim.demo.errors import DemoError


class Parser(argparse.ArgumentParser):
    """A parser that raises the demo's error for bad arguments."""

    def error(self, message: str) -> NoReturn:
        raise DemoError(message)
