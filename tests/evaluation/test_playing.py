"""Films of trials: what they show, in which order, and whether it is what the agent met."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

import metarl
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation import films
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.evaluate import evaluate_adaptation, evaluation_shape
from metarl.evaluation.films import Shot, open_films
from metarl.evaluation.playing import captioned, film_trial, one_trial, resized
from metarl.experience.lanes import TrialKeys
from metarl.options import with_options
from metarl.seeding import Phase

pytestmark = pytest.mark.usefixtures("small_blocks")


class Shots(list):
    """A film that keeps its pictures."""

    def add(self, shot):
        self.append(shot)


def rl2(tasks, **options):
    options = {"tasks_per_update": 2, "num_minibatches": 1, "hidden_size": 4} | options
    return RL2(with_options(RL2Config(), **options), metarl.TaskSpec.of(tasks))


def maml(tasks):
    config = MAMLPPOConfig(tasks_per_update=2, episodes_per_adaptation=2)
    return MAMLPPO(config, metarl.TaskSpec.of(tasks))


def filmed(agent, tasks, number=1, rate=25.0, keys=None):
    """Film the trial of one of an evaluation's tasks: the pictures, and what was shown."""
    keys = keys or TrialKeys(0, Phase.EVALUATE, 0, np.array([number]))
    task = evaluation_tasks(tasks, num_tasks=number + 1)[number]
    shape = evaluation_shape(agent, tasks)
    trial = one_trial(agent, tasks, task, shape=shape, keys=keys, greedy=False)
    film = Shots()
    options = {"shape": shape, "keys": keys, "option": "play", "rate": rate}
    return film, list(film_trial(trial, tasks, film, **options)), trial


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (rl2, "bandit/n4-k3"),
        (rl2, "mdp/n2"),
        (maml, "navigation:horizon=5"),
        (maml, "half-cheetah/velocity:horizon=4"),
        (lambda tasks: rl2(tasks, episodes_per_trial=2), "gym/CartPole-v1:length=0.3..1,horizon=9"),
    ],
)
def test_a_film_shows_the_trial_of_the_evaluation(make, name, monkeypatch):
    monkeypatch.setattr("metarl.evaluation.cameras.renderer_of", Blank)
    tasks = metarl.make(name)
    agent = make(tasks)
    film, played, trial = filmed(agent, tasks)
    curve = evaluate_adaptation(agent, tasks, num_tasks=3)
    assert [p.experience for p in played] == list(curve.episodes) and all(p.same for p in played)
    if agent.shape.learns_while_acting:
        totals = [p.total for p in played]
        np.testing.assert_allclose(totals, curve.returns[:, 1], rtol=1e-4, atol=1e-4)
    firsts = [float(r.metrics["return"][0, 0]) for r in trial.rounds]
    assert played[0].total == pytest.approx(firsts[0], rel=1e-4)
    assert played[-1].number == curve.episodes[-1]
    assert len({shot.name for shot in film}) == len(film) >= 2 * len(played)


class Blank:
    """A renderer of nothing, for machines that have none."""

    def __init__(self, model, option):
        pass

    def update_scene(self, data, camera):
        pass

    def render(self):
        return np.zeros((320, 320, 3), np.uint8)

    def close(self):
        pass


def test_every_picture_says_where_it_is_in_the_trial(monkeypatch):
    said = []

    def caption(frame, lines):
        said.append(lines)
        return captioned(frame, lines)

    monkeypatch.setattr("metarl.evaluation.playing.captioned", caption)
    tasks = metarl.make("navigation:horizon=3")
    _, played, _ = filmed(maml(tasks), tasks)
    assert len(said) == 4 * 4
    assert {task for task, _, _ in said} == {
        "goal=({:.3g}, {:.3g})".format(*evaluation_tasks(tasks, num_tasks=2)[1]["goal"])
    }
    assert [heading for _, heading, _ in said[::4]] == [
        "episode 1 of 8 · before adaptation",
        "episode 3 of 8 · after 2 episodes",
        "episode 5 of 8 · after 4 episodes",
        "episode 7 of 8 · after 6 episodes",
    ]
    assert [line.split(" · ")[0] for _, _, line in said[:4]] == [f"step {i}" for i in range(4)]
    assert said[0][2] == "step 0 · return 0.00"
    assert said[3][2] == f"step 3 · return {played[0].total:.2f}"


def test_a_slow_film_leaves_out_steps_but_never_the_last():
    tasks = metarl.make("navigation:horizon=7")
    film, *_ = filmed(maml(tasks), tasks, rate=5.0)  # of 20 steps a second: every fourth
    assert [shot.name for shot in film][:4] == [
        *(f"episode-001-step-000{step}" for step in (0, 4, 7)),
        "episode-003-step-0000",
    ]


def test_an_environment_that_does_other_things_again_is_noticed(monkeypatch):
    tasks = metarl.make("bandit/n8-k3")
    seeds = iter(range(100))
    monkeypatch.setattr("metarl.experience.lanes.Keys.environment_seed", lambda *_: next(seeds))
    _, played, _ = filmed(rl2(tasks), tasks)
    assert not all(p.same for p in played)


def test_captions_are_above_pictures_of_readable_size():
    frame = np.full((40, 50, 3), 7, np.uint8)
    seen = captioned(frame, ("one", "two"))
    assert seen.shape == (46 + 200, 250, 3) and (seen[46:] == 7).all()
    assert (seen[:23] < 250).any() and (seen[23:46] < 250).any()
    assert resized(np.zeros((500, 1280, 3), np.uint8)).shape == (250, 640, 3)


# files


def shots(number, size=(50, 61)):
    rng = np.random.default_rng(0)
    return [
        Shot(rng.integers(0, 255, (*size, 3), np.uint8), 0.1, f"{i:02d}") for i in range(number)
    ]


def test_a_gif_and_a_folder_hold_every_picture(tmp_path):
    paths = [tmp_path / "new" / "a.gif", tmp_path / "frames"]
    with open_films(paths, "--output") as film:
        for shot in shots(3):
            film.add(shot)
        assert not paths[0].exists()
    with Image.open(paths[0]) as gif:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert gif.size == (61, 50) and times == [100] * 3
    names = sorted(path.name for path in paths[1].iterdir())
    assert names == ["00.png", "01.png", "02.png"]
    assert (np.asarray(Image.open(paths[1] / "01.png")) == shots(3)[1].frame).all()


def test_an_mp4_has_as_many_frames_as_its_time(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="mp4 needs the extra 'video'")
    path = tmp_path / "a.mp4"
    with open_films([path], "--output") as film:
        for shot in shots(5):
            film.add(shot)
    count, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert (count, round(seconds, 2)) == (12, 0.48) and list(tmp_path.iterdir()) == [path]
    assert next(ffmpeg.read_frames(str(path)))["size"] == (62, 50)


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_film_that_fails_leaves_the_old_file(tmp_path, name):
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg", reason="mp4 needs the extra 'video'")
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(RuntimeError), open_films([path], "--output") as film:
        film.add(shots(1)[0])
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.png", "a name that ends with .mp4 or .gif, or a folder"),
        ("full", "a new or empty folder"),
        ("folder.gif", "a file, which is no folder yet"),
    ],
)
def test_what_no_film_can_be_written_to_is_refused_at_once(tmp_path, name, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.png").touch()
    (tmp_path / "folder.gif").mkdir()
    with (
        pytest.raises(UserError, match=f"^--output: got .*; accepted: {message}"),
        open_films([tmp_path / name], "--output"),
    ):
        pass


def test_an_mp4_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"^--output: .*pip install 'metarl-toolkit\[video\]'"):
        films.open_films([tmp_path / "a.mp4"], "--output").__enter__()
