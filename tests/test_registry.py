from importlib import metadata

import pytest

import metarl
from metarl import registry
from metarl.errors import UserError
from metarl.registry import make
from metarl.tasks.distribution import TaskDistribution

OWN = """
from counters import CounterTasks

class Mine(CounterTasks):
    name = ""

not_a_family = dict
"""


@pytest.fixture
def own_module(write_module):
    return write_module("own_family_of_tests", OWN)


def test_name_fills_placeholders():
    tasks = make("bandit/n7-k3")
    assert tasks.episodes_per_trial == 7 and tasks.action_space.n == 3
    assert tasks.name == "bandit/n7-k3"


def test_name_takes_options_after_a_colon():
    tasks = make("half-cheetah/velocity:high=2.5,horizon=50")
    assert (tasks.low, tasks.high, tasks.horizon) == (0.0, 2.5, 50)


def test_name_of_a_distribution_makes_it_again():
    for name in ("bandit/n7-k3", "half-cheetah/velocity", "half-cheetah/velocity:low=-0.5"):
        tasks = make(name)
        again = make(tasks.name)
        assert vars(again) == vars(tasks)


def test_whole_number_is_as_good_as_a_float():
    names = [make(f"half-cheetah/velocity:high={high}").name for high in ("2", "2.0")]
    assert names[0] == names[1]


def test_keyword_options_win():
    tasks = make("half-cheetah/velocity:high=2.5,horizon=50", high=1.5)
    assert (tasks.high, tasks.horizon) == (1.5, 50)
    assert make("bandit/n7-k3", k=4).action_space.n == 4


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("bandit/n10k5", "bandit/n10-k5"),
        ("half-cheeta/velocity", "half-cheetah/velocity"),
        ("half-cheetah/velocty:high=2.0", "half-cheetah/velocity"),
    ],
)
def test_unknown_name_lists_near_matches(name, meant):
    with pytest.raises(UserError, match=f"unknown environment '{name}'; did you mean {meant}"):
        make(name)


def test_unknown_name_lists_all_known_ones():
    with pytest.raises(
        UserError, match=r"known: ant/direction, .*bandit/n10-k5.*gym/Pendulum-v1:g=8..12.*walker"
    ):
        make("zzz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half-cheetah/velocity:hihg=2.0", "no option 'hihg'; did you mean high"),
        ("half-cheetah/velocity:high", "got option 'high'; accepted: option=value"),
        ("half-cheetah/velocity:high=", "got option 'high='; accepted: option=value"),
        ("half-cheetah/velocity:high=fast", "high: got 'fast'; accepted: int or float"),
        ("half-cheetah/velocity:high=true", "high: got True; accepted: int or float"),
        ("half-cheetah/velocity:horizon=2.5", "horizon: got 2.5; accepted: int"),
        ("half-cheetah/velocity:horizon=1", "horizon: got 1; accepted: at least 2 steps"),
        ("half-cheetah/velocity:high=-1.0", "low < high"),
        ("half-cheetah/velocity:high=nan", "low < high"),
        ("half-cheetah/velocity:high=inf", "high"),
        ("bandit/n10-k1", "bandit k: got 1; accepted: at least 2 arms"),
        ("bandit/n0-k5", "bandit n: got 0; accepted: at least 1 pull"),
        ("bandit/n10-k5:k=2.5", "k: got 2.5; accepted: int"),
        ("bandit/n10-k5:arms=2", "no option 'arms'"),
    ],
)
def test_bad_option_is_named_with_what_is_accepted(name, message):
    with pytest.raises(UserError, match=message):
        make(name)


def test_bad_keyword_option_is_refused_like_one_in_the_name():
    with pytest.raises(UserError, match="no option 'hihg'; did you mean high"):
        make("half-cheetah/velocity", hihg=2.0)
    with pytest.raises(UserError, match="k: got '3'; accepted: int"):
        make("bandit/n10-k5", k="3")


def test_module_of_the_current_folder_is_found(own_module):
    tasks = make(f"{own_module}:Mine", horizon=3)
    assert isinstance(tasks, TaskDistribution) and tasks.horizon == 3
    assert tasks.name == f"{own_module}:Mine"


def test_module_without_the_class_says_what_it_has(own_module):
    with pytest.raises(UserError, match=r"no 'Mime'; did you mean Mine"):
        make(f"{own_module}:Mime")


def test_module_that_makes_something_else_is_refused(own_module):
    with pytest.raises(UserError, match=r"is a dict; accepted: a metarl\.TaskDistribution"):
        make(f"{own_module}:not_a_family")


def test_module_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="nowhere_at_all:Mine: No module named 'nowhere_at_all'"):
        make("nowhere_at_all:Mine")


def test_only_a_typed_module_is_an_import():
    assert registry.is_import("package.module:Class")
    for name in (*registry.env_names(), "half-cheetah/velocity:high=2.0"):
        assert not registry.is_import(name)


def test_every_listed_name_can_be_made():
    assert [make(name).name for name in registry.env_names()] == registry.env_names()


def test_agent_class_is_found_by_name():
    assert registry.agent_class("rl2").__name__ == "RL2"


def test_unknown_agent_lists_near_matches():
    with pytest.raises(UserError, match="unknown agent 'rl22'; did you mean rl2"):
        registry.agent_class("rl22")


BASELINE = """
class Fixed:
    def __init__(self, tasks, shape, *, seed=0, device="cpu", action=0, rate=0.5):
        self.shape, self.given = shape, (tasks.name, seed, device, action, rate)

    def begin(self, num_tasks): ...
    def act(self, context, timestep, generator, greedy=False): ...
    def adapt(self, context, episodes, generator): ...

def empty(tasks, shape, *, seed=0, device="cpu"):
    return {}

number = 3
"""
SHAPE = metarl.TrialShape(10)


def test_a_baseline_is_made_by_its_name():
    made = registry.make_baseline("random", make("bandit/n10-k5"), SHAPE)
    assert isinstance(made, metarl.Adapter) and made.shape == SHAPE


def test_a_user_s_baseline_takes_options_after_a_second_colon(write_module):
    name, tasks = write_module("baselines_of_tests", BASELINE), make("bandit/n10-k5")
    text = f"{name}:Fixed:action=2,rate=1"
    made = registry.make_baseline(text, tasks, SHAPE, seed=4, device="meta")
    assert made.given == ("bandit/n10-k5", 4, "meta", 2, 1.0) and type(made.given[-1]) is float
    assert registry.make_baseline(f"{name}:Fixed", tasks, SHAPE).given[1:] == (0, "cpu", 0, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("randm", "unknown baseline 'randm'; did you mean random"),
        ("random:epsilon=1", "random has no option 'epsilon'; it takes none"),
        ("random:seed=1", "random has no option 'seed'; it takes none"),
        ("random:epsilon", "random: got option 'epsilon'; accepted: option=value"),
        ("baselines_of_tests:Fixed:actoin=1", "no option 'actoin'; did you mean action"),
        ("baselines_of_tests:Fixed:action=1.5", "action: got 1.5; accepted: int"),
        ("baselines_of_tests:Fixed:rate=fast", "rate: got 'fast'; accepted: int or float"),
        ("baselines_of_tests:Fxed", "no 'Fxed'; did you mean Fixed"),
        ("baselines_of_tests:empty", "made a dict without shape; accepted: a metarl.Adapter"),
        ("baselines_of_tests:number", "is a int; accepted: a class or function"),
        ("nowhere_of_tests:Fixed", "No module named 'nowhere_of_tests'"),
    ],
)
def test_a_bad_baseline_is_refused_in_one_line(write_module, text, message):
    write_module("baselines_of_tests", BASELINE)
    tasks = make("bandit/n10-k5")
    with pytest.raises(UserError, match=message) as refused:
        registry.make_baseline(text, tasks, SHAPE)
    assert "\n" not in str(refused.value)


def test_other_packages_add_baselines_by_entry_points(monkeypatch, write_module):
    name = write_module("baselines_of_tests", BASELINE)
    point = metadata.EntryPoint("fixed", f"{name}:Fixed", registry.ENTRY_POINTS["baselines"])
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    registry._entry_points.cache_clear()
    try:
        assert registry.baselines()["fixed"] == registry.Entry(f"{name}:Fixed", "")
        made = registry.make_baseline("fixed:action=1", make("bandit/n10-k5"), SHAPE)
        assert made.given[3] == 1
    finally:
        registry._entry_points.cache_clear()


EXITS = """
import sys
{module}sys.exit(3)

def build():
    sys.exit("no display")
"""


@pytest.mark.parametrize("agent", [False, True])
def test_a_module_that_ends_the_program_when_imported_is_refused(write_module, agent):
    name = write_module("exits_of_tests", EXITS.format(module=""))
    make_it = registry.agent_class if agent else make
    with pytest.raises(
        UserError, match=r"exits_of_tests:build: its code called exit\(3\); accepted"
    ):
        make_it(f"{name}:build")


def test_a_function_that_ends_the_program_is_refused(write_module):
    name = write_module("exits_of_tests", EXITS.format(module="# "))
    with pytest.raises(UserError, match=r"its code called exit\('no display'\)"):
        make(f"{name}:build")


def test_a_module_of_an_environment_that_ends_the_program_is_refused(write_module):
    name = write_module("exits_of_tests", EXITS.format(module=""))
    with pytest.raises(UserError, match=r"gym/exits_of_tests:A-v0: its code called exit\(3\)"):
        make(f"gym/{name}:A-v0:g=1..2")


def test_every_name_has_a_short_description():
    tables = registry.TASK_DISTRIBUTIONS, registry.AGENTS, registry.BASELINES
    for name, entry in [item for table in tables for item in table.items()]:
        assert 10 <= len(entry.description) <= 60, name


def test_entry_points_of_other_packages_have_no_description(monkeypatch):
    point = metadata.EntryPoint("maze", "mazes:Maze", "metarl.task_distributions")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    registry._entry_points.cache_clear()
    try:
        assert registry.task_distributions()["maze"] == registry.Entry("mazes:Maze", "")
    finally:
        registry._entry_points.cache_clear()
