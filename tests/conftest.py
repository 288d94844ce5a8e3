"""Fixtures of all tests; torch has one thread, on whose number speed and last bits depend."""

import ctypes.util
import os
import sys

import pytest
import quick
import torch
from matplotlib.figure import Figure

torch.set_num_threads(1)
if sys.platform == "linux" and not os.environ.get("DISPLAY") and ctypes.util.find_library("EGL"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo looks at it when it is imported.


@pytest.fixture(scope="session")
def renderer():
    """Skip tests of what MuJoCo renders where it cannot."""
    import mujoco

    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"MuJoCo cannot render here: {error}")


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Let ``os.fsync`` only check its file: it takes milliseconds, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: os.fstat(file) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures():
    """Draw pictures in few dots: tests make hundreds of them and look at few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", quick.save_coarsely)
        yield


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write a module into the current folder, which is a new one; forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory):
    """A program in place of ``sys.executable`` that need not import torch and metarl first."""
    if sys.platform != "linux":
        yield sys.executable
        return
    with quick.start(tmp_path_factory.mktemp("quick")) as program:
        yield program


@pytest.fixture(scope="module")
def small_blocks():
    """Draw fewer tasks than a validation of any size could need: it is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 10)
        yield
