"""From the words of a command line to dataclasses, whose field docstrings are the help."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import shutil
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import docstring_parser
import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

from metarl.errors import bad_option
from metarl.options import field_types, option_name

_TRUTH = {"true": True, "false": False, "1": True, "0": False}

_REGISTRY = ConstructorRegistry()


def parse(
    kind: Any, description: str, command: str, arguments: Sequence[str], default: Any = None
) -> Any:
    """Parse arguments into a dataclass whose fields' docstrings are the help.

    The options of a nested dataclass have a heading of their own, which is the field's name.

    Args:
        kind: the dataclass, or a union of annotated ones for subcommands.
        description: the text above the options.
        command: the name of the command.
        arguments: the words that follow it.
        default: an instance whose values are the defaults.

    Raises:
        UserError: for a value that a dataclass refuses.
    """
    return tyro.cli(
        kind,
        prog=program(command),
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        args=plain_flags(arguments, *_members(kind)),
        registry=_REGISTRY,
        **({} if default is None else {"default": default}),
    )


def program(command: str) -> str:
    """Return the words that started a command: ``metarl train`` or ``train.py``."""
    started = Path(sys.argv[0]).name
    return started if started == f"{command}.py" else f"metarl {command}"


def command_line(*words: str) -> str:
    """Return the command that runs the program with ``words``, as a user types it in a shell.

    It begins with ``metarl`` if that is on the PATH, and with ``python -m metarl`` otherwise.
    """
    return f"{'metarl' if shutil.which('metarl') else 'python -m metarl'} {shlex.join(words)}"


def plain_flags(arguments: Sequence[str], *kinds: Any) -> list[str]:
    """Return the arguments with ``--x=true`` as ``--x`` and ``--x=false`` as ``--no-x``.

    Sweeps send values for every option; ``--x True`` and ``--x False`` are read too.

    Args:
        arguments: the words of a command line.
        kinds: dataclasses whose fields of type bool are the flags, annotated or not.

    Raises:
        UserError: for a flag with another value.
    """
    flags = set().union(*map(_flags, kinds))
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("_", "-") in flags:
            if not equals and rest and rest[0].lower() in ("true", "false"):
                equals, value = "=", rest.pop(0)
            if equals and value.lower() not in _TRUTH:
                raise bad_option(name, value, "true or false")
            if equals:
                word = name if _TRUTH[value.lower()] else f"--no-{name[2:]}"
        words.append(word)
    return words


@functools.cache
def field_docs(kind: type) -> Mapping[str, str]:
    """Return the docstring of every field of a dataclass, each in one line."""
    docs: dict[str, str] = {}
    for part in reversed(kind.__mro__[:-1]):
        for parameter in docstring_parser.parse_from_object(part).params:
            docs[parameter.arg_name] = " ".join((parameter.description or "").split())
    return docs


def _flags(kind: Any) -> set[str]:
    """Return the names of the fields of type bool, as options are typed."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return set()
    hints = field_types(kind)
    own = {name.replace("_", "-") for name, hint in hints.items() if hint is bool}
    return own.union(*map(_flags, hints.values()))


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or ``kind`` alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


@_REGISTRY.struct_rule
def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Show the fields of a dataclass with one paragraph of help each, nested ones by their name.

    tyro breaks the help where the lines of a docstring end, and puts the whole path of nested
    dataclasses into a heading.
    """
    if not (isinstance(info.type, type) and dataclasses.is_dataclass(info.type)):
        return None
    if info.type.__module__.startswith("tyro."):  # tyro wraps subcommands in one of its own.
        return None
    docs, hints, fields = field_docs(info.type), field_types(info.type), []
    for field in dataclasses.fields(info.type):
        if dataclasses.is_dataclass(info.default) and not isinstance(info.default, type):
            default = getattr(info.default, field.name)
        elif field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = MISSING_NONPROP
        doc, hint = docs.get(field.name, ""), hints[field.name]
        shown = tyro.conf.arg(
            name=option_name(info.type, field.name).replace("_", "-"),
            help_behavior_hint=_said if "(default:" in doc else _automatic,
        )
        if dataclasses.is_dataclass(hint):  # The heading is the field's name alone.
            shown = tyro.conf.arg(prefix_name=False)
        kind: Any = Annotated[hint, shown]
        fields.append(StructFieldSpec(field.name, kind, default, doc))
    return StructConstructorSpec(info.type, tuple(fields))


def _said(default: str) -> str:
    """Return the end of a help text that already names the default: a value set elsewhere."""
    return "" if default in ("None", "") else f"(set to {default})"


def _automatic(default: str) -> str:
    """Return the end of any other help text: the default value."""
    return f"(default: {'automatic' if default == 'None' else default or 'none'})"


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Show an option that may be None by its other type alone; ``None`` is still accepted."""
    members = get_args(info.type) if get_origin(info.type) in (Union, types.UnionType) else ()
    others = [member for member in members if member is not type(None)]
    if len(others) != 1 or len(members) != 2:
        return None
    made = PrimitiveTypeInfo.make(others[0], info.markers)
    inner = ConstructorRegistry.get_primitive_spec(made)
    if isinstance(inner, UnsupportedTypeAnnotationError) or inner.nargs != 1:
        return None
    accepted = inner.choices or ()

    def read(words: list[str]) -> Any:
        if words == ["None"]:
            return None
        if accepted and words[0] not in accepted:
            raise ValueError(f"accepted: {', '.join(accepted)}")
        return inner.instance_from_str(words)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=inner.metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda x: ["None"] if x is None else inner.str_from_instance(x),
    )
