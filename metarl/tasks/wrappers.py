"""Wrappers of environments by the names that a user types, with arguments.

``FrameStackObservation(4)`` is the class of this name in ``gymnasium.wrappers``, and
``package.module:Name(1, key=2)`` or ``package.module.Name(1, key=2)`` that of another module.
Arguments are Python literals. Several are joined by ``+``, the innermost first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from metarl.errors import UserError, near_matches
from metarl.imports import load_object
from metarl.task import Env


class NamedWrapper:
    """A wrapper that the user has named, with its arguments; it travels to worker processes.

    Args:
        text: what the user typed, such as ``FrameStackObservation(4)``.
        wanted_by: what comes before it in messages.

    Raises:
        UserError: if the text is not understood, or there is no such wrapper.
    """

    def __init__(self, text: str, wanted_by: str = "wrap") -> None:
        self.text = text
        found = re.fullmatch(r"([\w.:]+)(\(.*\))?", text, re.DOTALL)
        if found is None:
            accepted = "Name(arguments), package.module:Name(arguments)"
            raise UserError(f"{wanted_by}: got {text!r}; accepted: {accepted}")
        name, arguments = found.groups()
        self.args, self.kwargs = _arguments(arguments or "()", text, wanted_by)
        self.wrapper = _load(name, wanted_by)

    def __call__(self, env: Env) -> Env:
        """Return the environment inside the wrapper."""
        wrapped: Env = self.wrapper(env, *self.args, **self.kwargs)
        return wrapped

    def __repr__(self) -> str:
        """Return what the user typed."""
        return self.text

    def __eq__(self, other: object) -> bool:
        """Return whether the user typed the same."""
        return isinstance(other, NamedWrapper) and other.text == self.text

    def __hash__(self) -> int:
        """Return what equal wrappers have in common."""
        return hash(self.text)


class Hide:
    """Takes parts out of Dict observations, so that an agent does not see them.

    A goal that is hidden is to be found out: a goal-conditioned environment becomes a task.

    Args:
        keys: the parts.
        wanted_by: what comes before them in messages.
    """

    def __init__(self, keys: tuple[str, ...], wanted_by: str = "hide") -> None:
        self.keys, self._wanted_by = keys, wanted_by

    def __call__(self, env: Env) -> Env:
        """Return the environment without these parts.

        Raises:
            UserError: if observations have no such parts, or no others.
        """
        space = env.observation_space
        if not isinstance(space, gym.spaces.Dict):
            accepted = f"an environment with Dict observations, not {type(space).__name__}"
            raise UserError(f"{self._wanted_by}: got {'+'.join(self.keys)}; accepted: {accepted}")
        for key in self.keys:
            if key not in space.spaces:
                raise UserError(
                    f"{self._wanted_by}: got {key!r}; {near_matches(key, list(space.spaces))}"
                )
        left = [key for key in space.spaces if key not in self.keys]
        if not left:
            raise UserError(f"{self._wanted_by}: got all parts; accepted: some of {list(space)}")
        return gym.wrappers.FilterObservation(env, left)

    def __eq__(self, other: object) -> bool:
        """Return whether the same parts are hidden."""
        return isinstance(other, Hide) and other.keys == self.keys

    def __hash__(self) -> int:
        """Return what equal ones have in common."""
        return hash(self.keys)

    def __repr__(self) -> str:
        """Return the parts as they are typed."""
        return "+".join(self.keys)


def parse_wrappers(text: str, wanted_by: str) -> list[NamedWrapper]:
    """Return the wrappers of a text, the innermost first.

    Raises:
        UserError: if one of them is not understood.
    """
    return [NamedWrapper(part, wanted_by) for part in split_outside(text, "+")]


def split_outside(text: str, separator: str) -> list[str]:
    """Divide a text at a separator, except inside brackets and quotes.

    >>> split_outside("a=1,wrap=Stack(4, pad='a,b')", ",")
    ['a=1', "wrap=Stack(4, pad='a,b')"]
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and depth:
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == separator and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _arguments(text: str, whole: str, wanted_by: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and named arguments of a call, which must be literals."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        named: Mapping[str | None, Any] = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        return [ast.literal_eval(x) for x in call.args], {str(k): v for k, v in named.items()}
    except (SyntaxError, ValueError, AssertionError) as error:
        accepted = "arguments that are numbers, texts, true-or-false values, lists or None"
        raise UserError(f"{wanted_by}: got {whole!r}; accepted: {accepted}") from error


def _load(name: str, wanted_by: str) -> Any:
    """Return the object that a name stands for."""
    if ":" in name:
        return load_object(name)
    module, _, attribute = name.rpartition(".")
    if module:
        return load_object(f"{module}:{attribute}")
    known = [x for x in dir(gym.wrappers) if isinstance(getattr(gym.wrappers, x), type)]
    if name not in known:
        elsewhere = "or package.module:Name of another module"
        raise UserError(
            f"{wanted_by}: gymnasium.wrappers has no {name!r}; {near_matches(name, known)}, "
            f"{elsewhere}"
        )
    return getattr(gym.wrappers, name)
