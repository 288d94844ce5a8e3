"""Imports point one way: scripts -> presets -> agents, envs -> metarl."""

import ast
import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from metarl import imports as imports_of_users
from metarl import registry
from metarl.running.presets import FAMILIES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "metarl"
ENVS = sorted((ROOT / "envs").glob("*.py"))
AGENTS = sorted((ROOT / "agents").glob("*.py"))
LIBRARY = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not {"envs", "agents", "presets"} & set(path.relative_to(PACKAGE).parts)
]
PRESETS = sorted((PACKAGE / "presets").glob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
FOLDERS = ["stepping", "tasks", "learning", "experience", "evaluation", "running", "sb3"]
"""From the bottom to the top; a folder imports what is before it, and files beside the folders."""
SIDEWAYS = [("learning", "tasks")]
"""Pairs in that order that do not import each other, either way."""
WITHOUT_TORCH = [
    path
    for path in [*LIBRARY, *ENVS]
    if path.parent.name in ("metarl", "stepping", "tasks", "envs") and path.name != "__main__.py"
]


def name_of(path):
    return f"{path.parent.name}/{path.name}"


def for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path, *, run_time_only=False):
    """Return every module that ``path`` imports, wherever in the file."""
    found, nodes = set(), [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if run_time_only and for_type_checkers(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        nodes += ast.iter_child_nodes(node)
    return found


def inside(module, *packages):
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def test_folders_are_found():
    assert (
        len(LIBRARY) > 50
        and len(WITHOUT_TORCH) > 25
        and len(ENVS) > 1
        and len(AGENTS) > 1
        and len(SCRIPTS) > 1
    )


def test_imports_sees_what_it_should(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "import torch.nn\nfrom metarl import envs\ndef f():\n    import agents\n"
        "if TYPE_CHECKING:\n    import x\n"
    )
    assert imports(file) == {"torch.nn", "metarl.envs", "agents", "x"}
    assert imports(file, run_time_only=True) == {"torch.nn", "metarl.envs", "agents"}
    assert inside("metarl.envs.bandit", "metarl.envs") and not inside("torchx", "torch")


def modules():
    """Return every module of the package and its file, links followed."""
    found = {}
    for path in [*LIBRARY, *ENVS, *AGENTS, *PRESETS]:
        root = PACKAGE if path.is_relative_to(PACKAGE) else ROOT
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(("metarl", *parts)).removesuffix(".__init__")] = path
    return found


def imported_modules():
    """Return which modules of the package each of them imports, lazily or not."""
    known = modules()
    arrows = {}
    for name, path in known.items():
        arrows[name] = set()
        for imported in imports(path):
            while imported and imported not in known:
                imported = imported.rpartition(".")[0]
            if imported and imported not in ("metarl", name):
                arrows[name].add(imported)
    return arrows


def circles(arrows):
    """Return the modules that can be reached from themselves."""
    found = set()
    for start in arrows:
        reached, waiting = set(), list(arrows[start])
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += arrows.get(name, ())
        if start in reached:
            found.add(start)
    return found


def test_no_modules_import_each_other_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}
    assert not circles(imported_modules())


def rank(module):
    folder = module.partition(".")[2].partition(".")[0]
    return 1 + FOLDERS.index(folder) if folder in FOLDERS else 0


def test_imports_point_from_the_top_folder_to_the_bottom_one():
    tasks = 1 + FOLDERS.index("tasks")
    beside = {"metarl.registry": tasks, "metarl.registered": tasks}
    beside |= {"metarl": 9, "metarl.__main__": 9}
    for name, imported in imported_modules().items():
        if inside(name, "metarl.envs", "metarl.agents", "metarl.presets"):
            continue
        for other in imported:
            assert beside.get(name, rank(name)) >= beside.get(other, rank(other)), (name, other)
            pair = tuple(m.partition(".")[2].partition(".")[0] for m in (name, other))
            assert pair not in SIDEWAYS and pair[::-1] not in SIDEWAYS, (name, other)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library_imports_no_env_and_no_agent(path):
    outward = ("metarl.envs", "metarl.agents", "metarl.presets")
    outward += ("envs", "agents", "scripts", "tests")
    assert not {m for m in imports(path, run_time_only=True) if inside(m, *outward)}


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_preset_imports_agents_their_parts_and_settings(path):
    inward = (
        "metarl.agents",
        "metarl.presets",
        "metarl.learning",
        "metarl.running",
        "metarl.options",
    )
    own = {m for m in imports(path) if not inside(m, *sys.stdlib_module_names)}
    assert all(inside(m, *inward, "metarl.stepping.options") for m in own)


def test_every_module_of_presets_is_known():
    assert {path.stem for path in PRESETS} == {"__init__", *FAMILIES}


@pytest.mark.parametrize("path", ENVS, ids=name_of)
def test_env_imports_no_torch_and_no_agent(path):
    banned = ("torch", "metarl.agents", "envs", "agents", "scripts")
    banned += ("metarl.learning", "metarl.experience", "metarl.evaluation", "metarl.running")
    assert not {m for m in imports(path) if inside(m, *banned)}


@pytest.mark.parametrize("path", AGENTS, ids=name_of)
def test_agent_imports_no_env_and_no_other_agent(path):
    banned = ("metarl.agents", "metarl.envs", "envs", "agents", "scripts")
    banned += ("metarl.evaluation", "metarl.running")
    assert not {m for m in imports(path) if inside(m, *banned)}


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=name_of)
def test_module_that_workers_load_imports_no_torch(path):
    heavy = ("torch", "metarl.learning", "metarl.experience", "metarl.evaluation", "metarl.running")
    assert not {m for m in imports(path, run_time_only=True) if inside(m, *heavy)}


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_short_and_imports_metarl_only(path):
    assert len(path.read_text().splitlines()) <= 20
    own = {m for m in imports(path) if not inside(m, *sys.stdlib_module_names)}
    assert own and all(inside(m, "metarl") for m in own)
    assert not {m for m in own if inside(m, "metarl.envs", "metarl.agents")}


def test_packages_of_pyproject_are_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent for path in [*ROOT.glob("*/__init__.py"), *PACKAGE.glob("*/__init__.py")]
    }
    on_disk = {"metarl" if f == PACKAGE else f"metarl.{f.name}" for f in folders}
    on_disk |= {"metarl.trained"}  # agents, no code
    assert sorted(settings["packages"]) == sorted(on_disk)
    assert settings["package-dir"] == {
        "metarl": "metarl",
        "metarl.envs": "envs",
        "metarl.agents": "agents",
        "metarl.trained": "benchmarks/agents",
    }
    assert not list(PACKAGE.glob("*/*/*.py"))  # one level of folders


def test_shapes_are_checked_in_every_folder_that_computes_with_arrays():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    words = settings["pytest"]["ini_options"]["addopts"].split()
    [checked] = [w.partition("=")[2].split(",") for w in words if "jaxtyping-packages" in w]
    without_arrays = {"metarl", "metarl.presets", "metarl.running", "metarl.trained"}
    assert set(settings["setuptools"]["packages"]) - without_arrays <= set(checked)


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_link_shows_the_folder_as_a_subpackage(folder):
    link = ROOT / "metarl" / folder
    assert link.is_symlink() and link.readlink() == Path("..") / folder
    module = importlib.import_module(f"metarl.{folder}")
    assert Path(module.__file__).resolve() == ROOT / folder / "__init__.py"


ENTRIES = [
    *registry.TASK_DISTRIBUTIONS.values(),
    *registry.AGENTS.values(),
    *registry.BASELINES.values(),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_registry_entry_imports(entry):
    assert isinstance(imports_of_users.load_object(entry.path), type)


def test_registry_knows_every_file():
    known = {entry.path.partition(":")[0] for entry in ENTRIES}
    files = {f"metarl.{p.parent.name}.{p.stem}" for p in (*ENVS, *AGENTS) if p.stem != "__init__"}
    parts = {f"metarl.envs.metaworld_{part}" for part in ("goals", "helpers", "step")}
    assert known == files - parts


def test_every_public_name_imports():
    metarl = importlib.import_module("metarl")
    assert sorted(metarl.__all__) == dir(metarl) == sorted(metarl._HOME)
    assert all(getattr(metarl, name) is not None for name in metarl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metarl.nothing  # noqa: B018
