"""docs/schedules.md shows every schedule, as the code draws it, beside torch's class for it."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from docs.site import schedule_pictures
from functorch_optim import optim

CALLS = schedule_pictures.calls()
PAGE = (schedule_pictures.DOCS / "schedules.md").read_text()
CLASSES = dict(re.findall(r"^\|.*/(\w+)\.svg\) \| `(?:swa_utils\.)?(\w+\([^`]*optimizer[^`]*\))` \|", PAGE, re.M))


def test_every_schedule_has_a_picture():
    assert set(CALLS) == set(fo.schedules.__all__) - {"PlateauState", "Schedule", "plot"} | {"a_function"}


@pytest.mark.parametrize("name", CALLS)
def test_a_picture_is_the_one_that_the_code_draws(name):
    values = schedule_pictures.values(CALLS[name])
    assert 0 <= min(values) < 1 and 0 < max(values) <= 1
    path = schedule_pictures.DOCS / "schedules" / f"{name}.svg"
    assert path.read_text() == schedule_pictures.picture(name, values), "python -m docs.site.schedule_pictures"


def test_no_picture_is_left_over():
    assert {path.stem for path in (schedule_pictures.DOCS / "schedules").iterdir()} == set(CALLS)


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_beside_a_picture_gives_the_same_rates(name):
    optimizer = optim.SGD([jnp.ones(1)], lr=1.0, momentum=0.5)
    known = {**vars(optim.lr_scheduler), **vars(optim.swa_utils)}
    scheduler = eval(CLASSES[name], {**known, "optimizer": optimizer, "swa_utils": optim.swa_utils})
    optimizer.step([jnp.ones(1)])  # once, so that no scheduler warns
    option, rates = "momentum" if name.endswith("_momentum") else "lr", []
    for step in range(schedule_pictures.STEPS):
        rates.append(optimizer.param_groups[0][option])
        scheduler.step(*([max(1 / (1 + step), 0.05)] if name == "reduce_on_plateau" else []))
    np.testing.assert_allclose(rates, schedule_pictures.values(CALLS[name]), rtol=1e-6, atol=1e-9)
