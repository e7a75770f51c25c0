"""The README's code runs as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run_in_order(standard_promotion):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["optimizer"].state["w"]["step"] == 3
    assert int(namespace["state"].step) == 2
    assert namespace["tuned_step"]._cache_size() == 1
