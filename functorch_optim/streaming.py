"""Running a function so that what it takes from the host's memory comes when it is needed, and leaves when it is done.

The function is traced. Then its results are computed one after the other, each with as little as it needs: an input in
the host's memory is fetched for the first result that needs it, and waits until an earlier result is there, so that
only a few are in the device's memory at a time.
"""

from collections.abc import Callable, Iterable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from functorch_optim import memory
from functorch_optim.typing import PyTree

Atom = Var | Literal
AHEAD = 2  # how many results are computed, or have their inputs fetched, at the same time


def streamed(function: Callable[..., tuple[list[PyTree], list[PyTree]]], inputs: Sequence[PyTree]) -> list[PyTree]:
    """Run ``function(*inputs)``, which returns two lists of arrays; return both as one list.

    The function gets all inputs in the device's memory. A result of the first list is computed in its turn, one of the
    second as soon as the inputs that it needs are there.
    """

    def whole(*given: PyTree) -> tuple[list[PyTree], list[PyTree]]:
        return function(*map(memory.to_device, given))

    closed, shapes = jax.make_jaxpr(whole, return_shape=True)(*inputs)
    run = _Run(closed, inputs)
    results, count = closed.jaxpr.outvars, len(shapes[0])
    waiting = {id(result): result for result in results[count:]}
    for result in results[:count]:
        run.compute([result])
        run.finished.append(run.value(result))
        ready = [one for one in waiting.values() if run.has_inputs_of(one)]
        run.compute(ready)
        for one in ready:
            del waiting[id(one)]
    run.compute(waiting.values())
    run.finish()
    return [run.value(result) for result in results]


class _Run:
    """The values of a traced function so far."""

    def __init__(self, closed: ClosedJaxpr, inputs: Sequence[PyTree]) -> None:
        self._jaxpr = closed.jaxpr
        self._values: dict[Var, PyTree] = {
            **dict(zip(self._jaxpr.constvars, closed.consts, strict=True)),
            **dict(zip(self._jaxpr.invars, inputs, strict=True)),
        }
        self._maker = {var: number for number, eqn in enumerate(self._jaxpr.eqns) for var in eqn.outvars}
        fetches = [number for number, eqn in enumerate(self._jaxpr.eqns) if self._is_fetch(eqn)]
        self._fetches = {number: 1 << place for place, number in enumerate(fetches)}  # each a bit
        self._made: set[int] = set()
        self._fetched = 0
        self._needed = self._fetches_of_all()
        self.finished: list[PyTree] = []

    def _is_fetch(self, eqn: JaxprEqn) -> bool:
        """Whether an equation moves an input from the host's memory."""
        given = eqn.invars[0] if eqn.invars else None
        if eqn.primitive.name != "device_put" or isinstance(given, Literal) or given not in self._values:
            return False
        return memory.is_of_host(given.aval)

    def _fetches_of_all(self) -> list[int]:
        """For each equation, the set of fetches that it needs, as bits."""
        found: list[int] = []
        for number, eqn in enumerate(self._jaxpr.eqns):
            bits = self._fetches.get(number, 0)
            for maker in self._makers(eqn.invars):
                bits |= found[maker]
            found.append(bits)
        return found

    def has_inputs_of(self, result: Atom) -> bool:
        """Whether everything that a result needs from the host's memory has been fetched."""
        return all(not self._needed[maker] & ~self._fetched for maker in self._makers([result]))

    def value(self, result: Atom) -> PyTree:
        return result.val if isinstance(result, Literal) else self._values[result]

    def compute(self, results: Iterable[Atom]) -> None:
        """Run the equations that these results need and that have not run yet."""
        self._run_all(self._makers(results))

    def finish(self) -> None:
        """Run what no result needs but what does something else, such as a print or a check."""
        self._run_all([number for number, eqn in enumerate(self._jaxpr.eqns) if eqn.effects])

    def _makers(self, atoms: Iterable[Atom]) -> list[int]:
        """The equations that make these."""
        return [self._maker[one] for one in atoms if not isinstance(one, Literal) and one in self._maker]

    def _run_all(self, stack: list[int]) -> None:
        """Run equations, and before them those that they need; none twice."""
        wanted: set[int] = set()
        while stack:
            number = stack.pop()
            if number in wanted or number in self._made:
                continue
            wanted.add(number)
            stack += self._makers(self._jaxpr.eqns[number].invars)
        for number in sorted(wanted):
            self._run(self._jaxpr.eqns[number], number in self._fetches)
            self._fetched |= self._fetches.get(number, 0)
            self._made.add(number)

    def _run(self, eqn: JaxprEqn, is_fetch: bool) -> None:
        inputs = list(dict.fromkeys(var for var in eqn.invars if not isinstance(var, Literal)))
        given = [self._values[var] for var in inputs]
        if is_fetch and len(self.finished) >= AHEAD:
            given[0], _ = jax.lax.optimization_barrier((given[0], self.finished[-AHEAD]))
        single = self._jaxpr.replace(constvars=[], invars=inputs, outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
        for var, value in zip(eqn.outvars, jaxpr_as_fun(ClosedJaxpr(single, []))(*given), strict=True):
            self._values[var] = value
