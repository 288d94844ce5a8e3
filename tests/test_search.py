"""Ranges in the types of configs, and --search: is what is wanted searched, the rest refused?"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from metarl import registry
from metarl.constraints import AtLeast, Between, validate
from metarl.errors import UserError
from metarl.options import with_options
from metarl.running.search_space import read_searched, search_space
from metarl.search import Tuned, TunedAmong, option_type, tuned_options


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Between(0, 1), Tuned(0.1, 0.5)] = 0.2
    kind: Annotated[Literal["a", "b"], TunedAmong("a", "b")] = "a"


@dataclass(frozen=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    size: Annotated[int, AtLeast(1), Tuned(2, 64, log=True)] | None = None
    flag: bool = False
    free: float = 1.0
    name: str = "x"

    def __post_init__(self):
        validate(self)
        validate(self.inner)


def space(*words, config=None, typed=()):
    return search_space(words, Config() if config is None else config, "mine", typed)


def test_ranges_of_nested_configs_are_options_of_the_config():
    assert tuned_options(Config) == {
        "rate": Tuned(0.1, 0.5),
        "kind": TunedAmong("a", "b"),
        "size": Tuned(2, 64, log=True),
    }
    assert option_type(Config, "size") == (
        int | None,
        (AtLeast(1), Tuned(2, 64, log=True)),
    )


@pytest.mark.parametrize("name", [n for n in registry.AGENTS if n not in ("random",)])
def test_every_trainable_agent_accepts_its_own_ranges(name):
    """Ranges that hold for the defaults are all searched, and none is outside a constraint."""
    config = registry.agent_class(name).Config()
    known = tuned_options(type(config))
    if name in ("rl2", "maml-ppo", "ppo-multitask", "sac-multitask"):
        assert "learning_rate" in known and len(known) >= 4
    for option, searched in known.items():
        for value in searched.ends:
            with_options(config, **{option: value})


@pytest.mark.parametrize(("low", "high", "log"), [(1, 1, False), (2, 1, False), (0, 1, True)])
def test_an_empty_range_is_refused_where_it_is_written(low, high, log):
    with pytest.raises(ValueError, match="must ascend"):
        Tuned(low, high, log)


def test_a_single_value_is_nothing_to_search():
    with pytest.raises(ValueError, match="two"):
        TunedAmong("a")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rate", "0.1..0.5", Tuned(0.1, 0.5)),
        ("rate", "1e-3..0.1", Tuned(0.001, 0.1, log=True)),
        ("rate", "linear:1e-3..1", Tuned(0.001, 1.0)),
        ("rate", "log:0.1..0.5", Tuned(0.1, 0.5, log=True)),
        ("free", "-1..1", Tuned(-1.0, 1.0)),
        ("size", "4..16", Tuned(4, 16)),
        ("size", "None,4", TunedAmong(None, 4)),
        ("flag", "true,false", TunedAmong(True, False)),
        ("kind", "b,a", TunedAmong("b", "a")),
        ("name", "x,y,z", TunedAmong("x", "y", "z")),
    ],
)
def test_a_range_is_read_as_it_is_written(name, text, expected):
    read = read_searched(name, text, Config)
    assert read == expected
    ends = [read.low, read.high] if isinstance(read, Tuned) else []
    assert all(type(end) is (int if name == "size" else float) for end in ends)


@pytest.mark.parametrize("searched", [Tuned(0.001, 0.5), Tuned(0.1, 0.2, log=True)])
def test_a_range_is_written_as_it_is_read(searched):
    assert read_searched("rate", str(searched), Config) == searched


def test_without_words_all_annotated_options_are_searched_but_those_with_a_value():
    assert list(space()) == ["rate", "kind", "size"]
    assert list(space(typed=("rate", "flag"))) == ["kind", "size"]


def test_words_restrict_what_is_searched():
    found = space("kind", "free=0.5..2", "--size=2..4")
    assert found == {
        "kind": TunedAmong("a", "b"),
        "free": Tuned(0.5, 2.0),
        "size": Tuned(2, 4),
    }


def test_a_range_that_the_settings_do_not_accept_is_left_out_with_the_reason(capsys):
    kind = registry.agent_class("rl2").Config
    found = search_space([], with_options(kind(), tasks_per_update=4, num_minibatches=1), "rl2", ())
    assert "num_minibatches" not in found and "learning_rate" in found
    said = " ".join(capsys.readouterr().out.split())
    assert "--num-minibatches is not searched, since log:1..16 does not fit" in said
    assert "1 to tasks-per-update (4)" in said


@pytest.mark.parametrize(
    ("words", "said", "accepted"),
    [
        (["sise"], "--search: mine has no option 'sise'", "did you mean size"),
        (["free"], "--search: got 'free'", "free=LOW..HIGH"),
        (["rate=0.5..2"], "--search: got 'rate=0.5..2'", "0 to 1"),
        (["rate=0.5..0.1"], "--search: got 'rate=0.5..0.1'", "ascend"),
        (["rate=log:0..0.1"], "--search: got 'rate=log:0..0.1'", "above 0 if log"),
        (["free=0..inf"], "--search: got 'free=0..inf'", "ascend"),
        (["rate=a..b"], "--search: got 'rate=a..b'", "a number instead of 'a'"),
        (["size=2.5..4"], "--search: got 'size=2.5..4'", "a whole number instead of '2.5'"),
        (["kind=a..b"], "--search: got 'kind=a..b'", "A,B"),
        (["kind=a,c"], "--search: got 'kind=a,c'", "a, b instead of 'c'"),
        (["kind=a"], "--search: got 'kind=a'", "two values or more"),
        (["flag=true,maybe"], "--search: got 'flag=true,maybe'", "true, false instead"),
        (["kind", "rate"], "--search: got 'rate'", "--rate is given"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(words, said, accepted):
    with pytest.raises(UserError) as error:
        space(*words, typed=("rate",) if words[0] == "kind" else ())
    assert str(error.value).startswith(said) and accepted in str(error.value)
    assert "\n" not in str(error.value)


def test_an_agent_without_any_range_is_refused_in_one_line():
    @dataclass(frozen=True)
    class Plain:
        rate: float = 0.1

    with pytest.raises(UserError, match="its config annotates none"):
        space(config=Plain())
    with pytest.raises(UserError, match=r"--search: got 'nothing for mine'; accepted: options"):
        space(typed=("rate", "kind", "size"))
