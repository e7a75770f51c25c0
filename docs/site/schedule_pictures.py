"""Draw the schedules of docs/schedules.md: ``python -m docs.site.schedule_pictures`` writes docs/schedules/*.svg.

The page is the source: a row of its tables that shows ``schedules/NAME.svg`` has the call in its last cell.
"""

import re
from collections.abc import Callable
from pathlib import Path

import functorch_optim as fo

DOCS = Path(__file__).parents[1]
STEPS = 100
WIDTH, HEIGHT = 220, 120
LEFT, RIGHT, TOP, BOTTOM = 34, 212, 8, 92
GREY, BLUE = "#808080", "#3b82f6"  # readable on white and on black


def calls() -> dict[str, str]:
    """Return the call of every picture of the page."""
    rows = re.findall(r"^\|.*\(schedules/(\w+)\.svg\).*\| `([^`]+)` \|$", (DOCS / "schedules.md").read_text(), re.M)
    return dict(rows)


def schedule(call: str) -> Callable[[int], float]:
    """Evaluate a call of the page."""
    return eval(call, {"s": fo.schedules})


def values(call: str) -> list[float]:
    """Return the values at the first steps; a schedule of a metric sees one that stops improving."""
    made = schedule(call)
    if not isinstance(made, fo.schedules.reduce_on_plateau):
        return [float(made(step)) for step in range(STEPS)]
    state, found = made.init(), []
    for step in range(STEPS):
        found.append(float(state.lr))
        _, state = made.update(max(1 / (1 + step), 0.05), state)
    return found


def picture(name: str, found: list[float]) -> str:
    """Return an SVG of values between 0 and 1."""
    points = " ".join(
        f"{LEFT + (RIGHT - LEFT) * step / (STEPS - 1):.1f},{BOTTOM - (BOTTOM - TOP) * value:.1f}"
        for step, value in enumerate(found)
    )
    title = "momentum" if name.endswith("_momentum") else "lr"
    middle = (TOP + BOTTOM) / 2
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">
<title>{name}</title>
<g fill="{GREY}" font-family="sans-serif" font-size="11">
<text x="{LEFT - 6}" y="{TOP + 6}" text-anchor="end">1</text>
<text x="{LEFT - 6}" y="{BOTTOM}" text-anchor="end">0</text>
<text x="{LEFT}" y="{BOTTOM + 14}">0</text>
<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 20}" text-anchor="middle">step</text>
<text x="{RIGHT}" y="{BOTTOM + 14}" text-anchor="end">{STEPS}</text>
<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{title}</text>
</g>
<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="{GREY}"/>
<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="2"/>
</svg>
"""


def main() -> None:
    """Write every picture, and remove those that the page no longer shows."""
    wanted = calls()
    for path in (DOCS / "schedules").glob("*.svg"):
        if path.stem not in wanted:
            path.unlink()
    for name, call in wanted.items():
        (DOCS / "schedules" / f"{name}.svg").write_text(picture(name, values(call)))


if __name__ == "__main__":
    main()
