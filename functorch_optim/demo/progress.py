"""How the demo tells what it does: with bars in a terminal, with lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from functorch_optim.typing import PyTree

WIDTH = 100  # of a line with a bar, if the terminal is as wide
FORMAT = "{desc}  {bar}  "


class Bar:
    """One line. It changes with every step in a terminal, and appears at its end elsewhere."""

    def __init__(self, label: str, bar: PyTree, progress: "Progress") -> None:
        self._label, self._bar, self._progress = label, bar, progress

    def step(self, text: str) -> None:
        """Count one more step, and show the text beside the bar."""
        left = self._progress.count_step()
        if self._bar is not None:
            self._bar.bar_format = f"{FORMAT}{text}  {left}"
            self._bar.update()

    def end(self, text: str) -> None:
        """Show the text that stays."""
        text = f"{text}  {self._progress.time_left()}"
        if self._bar is None:
            self._progress.say(f"{self._label}  {text}")
        else:
            self._bar.bar_format = FORMAT + text
            self._bar.refresh()


class Progress:
    """Tells the phases of a run, its epochs and the time left in a phase."""

    def __init__(self) -> None:
        self._steps, self._done, self._start = 0, 0, 0.0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def phase(self, text: str, steps: int) -> None:
        """Begin a phase of so many steps."""
        self.say(text)
        self._steps, self._done = steps, 0

    @contextmanager
    def bar(self, label: str, steps: int) -> Generator[Bar]:
        """Show a part of the phase."""
        if not sys.stdout.isatty():
            yield Bar(label, None, self)
            return
        from tqdm import tqdm

        size = shutil.get_terminal_size()
        width, height = min(size.columns or 80, WIDTH), size.lines or 24  # some terminals do not know their size
        text = "" if self._done else "compiling the step"
        with tqdm(total=steps, desc=label, ncols=width, nrows=height, bar_format=FORMAT + text, file=sys.stdout) as bar:
            yield Bar(label, bar, self)

    def count_step(self) -> str:
        """Count a step, and return the time left. The first step starts the clock, since it compiles."""
        if not self._done:
            self._start = time.perf_counter()
        self._done += 1
        return self.time_left()

    def time_left(self) -> str:
        """Return the time that the rest of the phase takes at the pace so far."""
        pace = (time.perf_counter() - self._start) / max(self._done - 1, 1)
        minutes, seconds = divmod(round(pace * (self._steps - self._done)), 60)
        return f"{minutes}:{seconds:02} left"
