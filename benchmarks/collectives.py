"""Count what a compiled program sends between devices, from its text after all optimizations.

The count is of bytes that a device sends, if the devices of a group form a ring: of an array of B bytes an all-reduce
over g devices sends 2 (g - 1) / g B, an all-gather to B bytes, a reduce-scatter and an all-to-all of B bytes
(g - 1) / g B, and a permutation B.
"""

import math
import re
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
LINE = re.compile(rf"= (?P<result>\([^=]*?\)|\S+) (?P<kind>{KINDS})(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective: its kind, the devices of a group, the bytes of the whole arrays, and how often it runs."""

    kind: str
    group: int
    size: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Return the bytes that each device sends."""
        if self.kind == "collective-permute":
            return self.times * self.size
        return self.times * (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group * self.size


def collectives(text: str, devices: int) -> list[Collective]:
    """Return the collectives in the text of a compiled program.

    Raises:
        ValueError: the program has one in a loop of which it does not say how often it runs, or in an unknown form.
    """
    found: list[Collective] = []
    computation, times = "", _times(text)
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if line and not line[0].isspace():
            computation = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
        match = LINE.search(line)
        if match is None:
            continue
        if computation in times and times[computation] is None:
            raise ValueError(f"a collective is in a loop that runs an unknown number of times: {line.strip():.120}")
        kind, group = match["kind"], _group(line, devices)
        size = bytes_of(match["result"]) * (group if kind == "reduce-scatter" else 1)
        found.append(Collective(kind, group, size, times.get(computation) or 1))
    return found


def _times(text: str) -> dict[str, int | None]:
    """Return how often each computation runs that is the body or the condition of a loop; None if that is unknown."""
    found: dict[str, int | None] = {}
    for line in text.splitlines():
        if " while(" in line:
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
            for name in re.findall(r"(?:body|condition)=%?([\w.-]+)", line):
                found[name] = int(count[1]) if count else None
    return found


def bytes_of(shapes: str) -> int:
    """Return the bytes of all arrays that a text names, as in ``(f32[2,3]{1,0}, s32[])``."""
    return sum(SIZES[kind] * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in ARRAY.findall(shapes))


def _group(line: str, devices: int) -> int:
    """Return how many devices are in each group of a collective."""
    if "source_target_pairs=" in line or "replica_groups={}" in line:
        return devices
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", found[2]))
    raise ValueError(f"the groups of this collective have an unknown form: {line.strip():.200}")
