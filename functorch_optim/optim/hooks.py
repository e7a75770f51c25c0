"""Hooks around an optimizer's step, its ``state_dict`` and its ``load_state_dict``."""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from functorch_optim.typing import PyTree

Hook = Callable[..., PyTree]
_ids = itertools.count()


class RemovableHandle:
    """The handle of a registration: :meth:`remove` ends it, and so does the exit of a ``with`` block.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=0.1)
        >>> with optimizer.register_step_post_hook(lambda optimizer, args, kwargs: print("stepped")):
        ...     optimizer.step([jnp.ones(1)])
        stepped
        >>> optimizer.step([jnp.ones(1)])
    """

    def __init__(self, hooks: "OrderedDict[int, Hook]") -> None:
        self.id = next(_ids)
        self._hooks = hooks

    def remove(self) -> None:
        """End the registration; a second call does nothing."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class Hooks(OrderedDict[int, Hook]):
    """The hooks of one occasion, in the order in which they are called."""

    def register(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        handle = RemovableHandle(self)
        self[handle.id] = hook
        if prepend:
            self.move_to_end(handle.id, last=False)
        return handle

    def call(self, *args: object) -> None:
        """Call all hooks, and ignore what they return."""
        for hook in list(self.values()):
            hook(*args)

    def replace(self, optimizer: object, value: object) -> PyTree:
        """Pass ``value`` through the hooks, each of which may return a replacement."""
        for hook in list(self.values()):
            result = hook(optimizer, value)
            value = value if result is None else result
        return value


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before every step of every optimizer.

    It works like :meth:`functorch_optim.optim.Optimizer.register_step_pre_hook`, and is called before such hooks.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> with register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: print(type(optimizer).__name__)):
        ...     optim.SGD([jnp.zeros(1)], lr=0.1).step([jnp.ones(1)])
        SGD
    """
    return EVERY_STEP.step_pre.register(hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` after every step of every optimizer.

    It works like :meth:`functorch_optim.optim.Optimizer.register_step_post_hook`, and is called after such hooks.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> with register_optimizer_step_post_hook(lambda optimizer, args, kwargs: print(optimizer.params)):
        ...     optim.SGD([jnp.zeros(1)], lr=1.0).step([jnp.ones(1)])
        [Array([-1.], dtype=float32)]
    """
    return EVERY_STEP.step_post.register(hook)


@dataclass
class Occasions:
    """The hooks of one optimizer, by occasion."""

    step_pre: Hooks = field(default_factory=Hooks)
    step_post: Hooks = field(default_factory=Hooks)
    state_dict_pre: Hooks = field(default_factory=Hooks)
    state_dict_post: Hooks = field(default_factory=Hooks)
    load_pre: Hooks = field(default_factory=Hooks)
    load_post: Hooks = field(default_factory=Hooks)
    scheduled: object = None  # the optimizer's own ``step`` attribute when a scheduler started


EVERY_STEP = Occasions()  # the hooks around the steps of all optimizers


class Hooked:
    """Base of objects with hooks, which are called around the outermost ``step`` only, and not copied or pickled."""

    def __init__(self) -> None:
        self._hooks = Occasions()

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before every step.

        ``args`` starts with the optimizer itself, as in torch. The hook may return ``(args, kwargs)`` to replace them.

        Raises:
            RuntimeError: from ``step``, if the hook returns anything else.
        """
        return self._hooks.step_pre.register(hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after every step, and ignore what it returns."""
        return self._hooks.step_post.register(hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` before ``state_dict``; with ``prepend``, before all existing hooks."""
        return self._hooks.state_dict_pre.register(hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` after ``state_dict``; it may return a replacement."""
        return self._hooks.state_dict_post.register(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before ``load_state_dict``; it may return a replacement.

        The hook gets a shallow copy of the state dict.
        """
        return self._hooks.load_pre.register(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` after ``load_state_dict``."""
        return self._hooks.load_post.register(hook, prepend)
