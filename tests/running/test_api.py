"""Train and evaluate from Python, in ten lines."""

import numpy as np
import pytest

import metarl
from metarl.errors import UserError


def test_ten_lines_of_python_train_evaluate_and_adapt(tmp_path):
    seen = []
    small = {"tasks_per_update": 4, "num_minibatches": 1, "hidden_size": 4}
    some = {"iterations": 2, "evaluation_tasks": 3, "validation_tasks": 2}
    run = metarl.train(
        "rl2",
        env="bandit/n3-k2",
        run_dir=str(tmp_path / "run"),  # text is as good as a Path
        callback=lambda iteration, trial, metrics: seen.append(iteration),
        **small,
        **some,
    )
    curve = metarl.evaluate(run.directory, evaluation_tasks=5, output=str(tmp_path / "more"))
    assert (tmp_path / "more" / "test-tasks-5.json").exists()
    assert seen == [1, 2]
    assert curve.returns.shape == (3, 5)
    agent = metarl.load(run.directory)
    env = metarl.make("bandit/n3-k2").make(
        metarl.make("bandit/n3-k2").sample(np.random.default_rng(0), 1, "test")[0]
    )
    policy = metarl.adapt(agent, env, episodes=2)
    assert policy.act(env.reset(seed=0)[0]) in (0, 1)


def test_a_wrong_option_is_named():
    with pytest.raises(UserError, match="no option 'iteration'; did you mean iterations"):
        metarl.train(iteration=3)


def test_settings_are_tuned_from_python(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("metarl.running.api.tuning.tune", lambda *words: given.append(words))
    metarl.tune("rl2", env="bandit/n3-k2", trials=3, search=["clip"], hidden_size=4, jobs=2)
    [(settings, config, typed)] = given
    assert (settings.train.env, settings.agent_config.core.hidden_size) == ("bandit/n3-k2", 4)
    assert (config.trials, config.jobs, config.search, config.prune) == (3, 2, ("clip",), True)
    assert set(typed) == {"env", "hidden_size"}
    with pytest.raises(UserError, match=r"metarl\.tune: no option 'hiden_size'"):
        metarl.tune(hiden_size=4)
