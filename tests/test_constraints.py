"""Constraints: does a config refuse what its types forbid, and name the option as it is typed?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro

from metarl.constraints import (
    Above,
    AtLeast,
    Between,
    NotEmpty,
    NotNegative,
    Positive,
    refuse_unused,
    validate,
)
from metarl.errors import UserError
from metarl.options import option_flag, option_paths, option_values, with_options


@dataclass(frozen=True)
class Layer:
    kind: Annotated[Literal["thin", "thick"], tyro.conf.arg(name="layer")] = "thin"
    """The kind of the layer."""
    width: Annotated[int, AtLeast(2)] | None = None
    """The width of a thick layer."""

    def __post_init__(self):
        validate(self)
        if self.kind == "thin":
            refuse_unused(self, ("width",), "--layer thick")


@dataclass(frozen=True)
class Config:
    rate: Annotated[float, Positive] = 1.0
    """The rate of learning."""
    weight: Annotated[float, NotNegative] = 0.0
    """The weight of a loss."""
    discount: Annotated[float, Between(0, 1)] = 0.5
    """The discount factor."""
    count: Annotated[int, AtLeast(0)] = 0
    """The number of something."""
    limit: Annotated[float, Above(0)] | None = None
    """The limit of something."""
    sizes: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty] = (1,)
    """The sizes of layers."""
    layer: Layer = field(default_factory=Layer)
    """The layer of the network."""
    flag: bool = False
    """A switch without a constraint."""

    def __post_init__(self):
        validate(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, "--rate: got 0.0; accepted: a number above 0"),
        ({"rate": math.inf}, "--rate: got inf; accepted: a number above 0"),
        ({"rate": math.nan}, "--rate: got nan; accepted: a number above 0"),
        ({"weight": -1.0}, "--weight: got -1.0; accepted: 0 or more"),
        ({"weight": math.inf}, "--weight: got inf; accepted: 0 or more"),
        ({"discount": 1.5}, "--discount: got 1.5; accepted: 0 to 1"),
        ({"count": -1}, "--count: got -1; accepted: 0 or more"),
        ({"limit": 0.0}, "--limit: got 0.0; accepted: above 0"),
        ({"sizes": ()}, "--sizes: got (); accepted: at least one number"),
        ({"sizes": (3, 0)}, "--sizes: got (3, 0); accepted: at least 1 each"),
        ({"layer": "wide"}, "--layer: got 'wide'; accepted: thin, thick"),
        ({"layer": "thick", "width": 1}, "--width: got 1; accepted: at least 2"),
        ({"width": 3}, "--width: got 3; accepted: None, unless --layer thick is given"),
    ],
)
def test_refusal_names_option_value_and_what_is_accepted(values, message):
    with pytest.raises(UserError) as error:
        with_options(Config(), **values)
    assert str(error.value) == message


def test_ends_of_ranges_and_none_are_accepted():
    Config(weight=0.0, discount=1.0, count=0, limit=math.inf, sizes=(1, 1))
    Config(discount=0.0, limit=None)


def test_options_of_nested_configs_are_flat():
    assert option_paths(Config)["width"] == ("layer", "width")
    assert option_paths(Config)["layer"] == ("layer", "kind")
    assert option_flag(Layer, "kind") == "--layer"
    config = with_options(Config(rate=2.0), layer="thick", width=5, discount=0.1)
    assert config == Config(rate=2.0, discount=0.1, layer=Layer("thick", 5))
    assert option_values(config)["width"] == 5 and option_values(config)["rate"] == 2.0
    with pytest.raises(TypeError, match=r"no option 'widht'; did you mean width"):
        with_options(Config(), widht=3)


def test_command_line_shows_numbers_as_such_and_nested_options_flat(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    text = capsys.readouterr().out
    for option in ("--rate FLOAT", "--count INT", "--layer {thin,thick}", "--width {None}|INT"):
        assert option in text
    parsed = tyro.cli(
        Config, args=["--layer", "thick", "--width", "4"], config=(tyro.conf.OmitArgPrefixes,)
    )
    assert parsed.layer == Layer("thick", 4)
