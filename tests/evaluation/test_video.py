"""Videos, without rendering: what is filmed, in which order, and what is said where none can be."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation import cameras, video
from metarl.options import with_options
from metarl.tasks.arrays import ArrayTaskDistribution


class Stub:
    """A renderer that returns how often it was asked, and the hand of the arm it looked at."""

    asked = 0

    def __init__(self, *args):
        pass

    def update_scene(self, data, camera):
        assert camera == "corner2"
        self.height = float(data.body("hand").xpos[2])

    def render(self):
        Stub.asked += 1
        frame = np.zeros((4, 4, 3), np.uint8)
        frame[0, 0] = 255  # a corner, by which upside down is told
        return frame

    def close(self):
        pass


@pytest.fixture
def written(monkeypatch):
    files = {}

    @contextlib.contextmanager
    def open_films(paths, option):
        shots = []
        yield SimpleNamespace(add=shots.append)
        files[paths[0].name] = [shot.frame for shot in shots]

    monkeypatch.setattr(cameras, "renderer_of", Stub)
    monkeypatch.setattr(video, "open_films", open_films)
    return files


def rl2(tasks):
    config = with_options(RL2Config(), tasks_per_update=2, num_minibatches=1, hidden_size=4)
    return RL2(config, metarl.TaskSpec.of(tasks))


def test_one_file_a_task_with_both_episodes_side_by_side(written, tmp_path):
    tasks = metarl.make("metaworld/custom:train=reach,test=push+door-open,horizon=10")
    chosen = tasks.tasks("test")[:2]
    paths = video.record_adaptation(
        rl2(tasks), tasks, chosen, tmp_path / "new", name="test-video", episodes=1
    )
    assert [path.name for path in paths] == ["test-video-0.mp4", "test-video-1.mp4"]
    for frames in written.values():
        # 80 steps a second shown at 25 frames: every third step, the first and the last
        assert len(frames) == 1 + 3 + 1
        assert {frame.shape for frame in frames} == {(4, 8, 3)}
        assert all(
            frame[3, 3, 0] == frame[3, 7, 0] == 255 and frame.sum() == 6 * 255 for frame in frames
        )


def test_the_shorter_episode_waits_for_the_longer_one():
    def frames(*values):
        return [np.full((1, 1, 3), value, np.uint8) for value in values]

    joined = video.side_by_side(frames(1, 2, 3), frames(7))
    assert [frame[0, :, 0].tolist() for frame in joined] == [[1, 7], [2, 7], [3, 7]]


def test_array_families_are_filmed_as_they_are_drawn(written, tmp_path):
    tasks = metarl.make("bandit/n5-k3")
    chosen = tasks.sample(np.random.default_rng(0), 1, "test")
    video.record_adaptation(rl2(tasks), tasks, chosen, tmp_path, name="x", episodes=1)
    start, pulled = written["x-0.mp4"]
    assert start.shape == (250, 640, 3) and (start[:, :320] != pulled[:, :320]).any()


def test_a_missing_gl_library_is_reported_before_any_computation(monkeypatch):
    class Renderer:
        def __init__(self, *args):
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr(video, "mp4_writer", lambda option: None)
    monkeypatch.setattr("mujoco.Renderer", Renderer)
    with pytest.raises(
        UserError, match=r"^--video: [^\n]*glGetError[^\n]*MUJOCO_GL=egl with libegl1"
    ):
        video.check_can_record(metarl.make("half-cheetah/direction"))


def test_a_missing_encoder_is_reported_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install .*\[video\]"):
        video.check_can_record(metarl.make("navigation"))


def test_a_family_without_pictures_is_reported_before_any_computation(monkeypatch):
    monkeypatch.setattr(video, "mp4_writer", lambda option: None)
    monkeypatch.setattr("metarl.envs.mdp.TabularMDP.draw", ArrayTaskDistribution.draw)
    with pytest.raises(UserError, match=r"^--video: ArrayEnv has no pictures; accepted: "):
        video.check_can_record(metarl.make("mdp/n10"))


def test_a_filmed_adaptation_has_the_tasks_horizon_not_the_training_s(
    written, tmp_path, monkeypatch
):
    tasks = metarl.make("metaworld/custom:train=reach,test=push,horizon=4")
    agent, given = rl2(tasks), []
    agent.horizon = 2

    def adapt(*args, max_steps, **options):
        given.append(max_steps)
        return metarl.adapt(*args, max_steps=max_steps, **options)

    monkeypatch.setattr(video, "adapt", adapt)
    video.record_adaptation(agent, tasks, tasks.tasks("test")[:1], tmp_path, name="x", episodes=1)
    assert given == [4, 4]
