"""Imports point one way: scripts -> agents, envs -> metarl."""

import ast
import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from metarl import registry

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "metarl").glob("*.py"))
ENVS = sorted((ROOT / "envs").glob("*.py"))
AGENTS = sorted((ROOT / "agents").glob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
WITHOUT_TORCH = [
    ROOT / "metarl" / f"{name}.py"
    for name in (
        *("tasks", "registry", "vector", "slots", "workers", "seeding", "spaces", "errors"),
        *("parameters", "constructors", "physics", "gym_tasks", "__init__"),
    )
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
    assert len(LIBRARY) > 10 and len(ENVS) > 1 and len(AGENTS) > 1 and len(SCRIPTS) > 1


def test_imports_sees_what_it_should(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "import torch.nn\nfrom metarl import envs\ndef f():\n    import agents\n"
        "if TYPE_CHECKING:\n    import x\n"
    )
    assert imports(file) == {"torch.nn", "metarl.envs", "agents", "x"}
    assert imports(file, run_time_only=True) == {"torch.nn", "metarl.envs", "agents"}
    assert inside("metarl.envs.bandit", "metarl.envs") and not inside("torchx", "torch")


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library_imports_no_env_and_no_agent(path):
    outward = ("metarl.envs", "metarl.agents", "envs", "agents", "scripts", "tests")
    assert not {m for m in imports(path) if inside(m, *outward)}


@pytest.mark.parametrize("path", ENVS, ids=name_of)
def test_env_imports_no_torch_and_no_agent(path):
    banned = ("torch", "metarl.agents", "metarl.envs", "envs", "agents", "scripts")
    assert not {m for m in imports(path) if inside(m, *banned)}


@pytest.mark.parametrize("path", AGENTS, ids=name_of)
def test_agent_imports_no_env_and_no_other_agent(path):
    banned = ("metarl.agents", "metarl.envs", "envs", "agents", "scripts")
    assert not {m for m in imports(path) if inside(m, *banned)}


@pytest.mark.parametrize("path", WITHOUT_TORCH, ids=name_of)
def test_module_that_workers_load_imports_no_torch(path):
    assert not {m for m in imports(path, run_time_only=True) if inside(m, "torch")}


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_short_and_imports_metarl_only(path):
    assert len(path.read_text().splitlines()) <= 65
    own = {m for m in imports(path) if not inside(m, *sys.stdlib_module_names, "tyro")}
    assert own and all(inside(m, "metarl") for m in own)
    assert not {m for m in own if inside(m, "metarl.envs", "metarl.agents")}


def test_packages_of_pyproject_are_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in ROOT.glob("*/__init__.py")}
    on_disk = {"metarl" if f.name == "metarl" else f"metarl.{f.name}": f.name for f in folders}
    assert sorted(settings["packages"]) == sorted(on_disk)
    assert settings["package-dir"] == on_disk
    assert not [p for p in ROOT.glob("*/*/__init__.py") if not p.parent.is_symlink()]


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_link_shows_the_folder_as_a_subpackage(folder):
    link = ROOT / "metarl" / folder
    assert link.is_symlink() and link.readlink() == Path("..") / folder
    module = importlib.import_module(f"metarl.{folder}")
    assert Path(module.__file__).resolve() == ROOT / folder / "__init__.py"


@pytest.mark.parametrize("path", [*registry.TASK_DISTRIBUTIONS.values(), *registry.AGENTS.values()])
def test_registry_entry_imports(path):
    assert isinstance(registry.load_object(path), type)


def test_registry_knows_every_file():
    known = {path.partition(":")[0] for path in registry.TASK_DISTRIBUTIONS.values()}
    known |= {path.partition(":")[0] for path in registry.AGENTS.values()}
    files = {f"metarl.{p.parent.name}.{p.stem}" for p in (*ENVS, *AGENTS) if p.stem != "__init__"}
    assert known == files


def test_every_public_name_imports():
    metarl = importlib.import_module("metarl")
    assert sorted(metarl.__all__) == dir(metarl) == sorted(metarl._HOME)
    assert all(getattr(metarl, name) is not None for name in metarl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metarl.nothing  # noqa: B018
