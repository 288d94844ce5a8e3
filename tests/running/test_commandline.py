"""The command line: does it take what it should, and say what is wrong with the rest?"""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import metarl
from metarl import registry
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.options import option_values, with_options
from metarl.running.commandline import parse_train
from metarl.running.parsing import command_line, plain_flags
from metarl.running.presets import presets
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = with_options(
        TrainConfig(),
        env="bandit/n3-k2",
        iterations=2,
        evaluation_tasks=3,
        validation_tasks=2,
        check=False,
        run_dir=tmp_path_factory.mktemp("runs") / "trained",
    )
    return train(
        Settings(
            "rl2",
            with_options(RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2),
            config,
        )
    )


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, trained):
    """Run a script in an empty folder: exit code, standard output, standard error."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(script, *arguments):
        words = [str(trained.directory) if a == "RUN" else a for a in arguments]
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def listing(folder):
    return {p: p.stat().st_mtime_ns for p in Path(folder).rglob("*") if p.is_file()}


OURS = [
    ("train", "--env bandt/n10-k5", "--env", "did you mean bandit/n10-k5"),
    ("train", "--env bandit/n10-k5:arms=3", "no option 'arms'", "high, k, low, n"),
    ("train", "--env bandit/n10-k1", "bandit k: got 1", "at least 2"),
    ("train", "--env nomodule:Tasks", "nomodule", ""),
    ("train", "maml", "agent: unknown agent 'maml'", "rl2"),
    ("train", "--preset rl2-bandit", "--preset", "did you mean rl2-bandit-n100-k10"),
    ("train", "--preset", "--preset", "argument"),
    ("train", "--tasks-per-update 0", "--tasks-per-update: got 0", "at least 1"),
    ("train", "--learning-rate -0.1", "--learning-rate: got -0.1", "above 0"),
    ("train", "--num-minibatches 2000", "--num-minibatches: got 2000", "1000"),
    ("train", "--evaluation-tasks 0", "--evaluation-tasks: got 0", "at least 1"),
    ("train", "--device tpu", "--device: got 'tpu'", "cpu"),
    ("train", "--device cuda:99", "--device: got 'cuda:99'", "cpu"),
    ("train", "--iterations 0", "--iterations: got 0", "at least 1"),
    (
        "train",
        "--iterations 3 --env-steps 10",
        "--env-steps: got --iterations beside it",
        "one of --iterations, --env-steps, --minutes",
    ),
    ("train", "--seed -1", "--seed: got -1", "0 to 2**63 - 1"),
    (
        "train",
        "--env half-cheetah/velocity --preset none",
        "--episodes-per-trial: got None",
        "number",
    ),
    ("train", "--run-dir RUN", "--run-dir: got", "empty"),
    ("train", "--run-dir /proc/none/run", "--run-dir: got", "writable"),
    ("train", "--resume nowhere", "nowhere: not a run directory", ""),
    ("train", "--resume RUN --seed 5", "--seed: got 5", "--iterations"),
    ("train", "--resume RUN --hidden-size 16", "--hidden-size: got 16", "--iterations"),
    ("train", "--resume RUN --preset rl2-bandit-n100-k10", "--preset: got", "--resume"),
    ("train", "--resume RUN --config x.json", "--config: got 'x.json'", "--resume"),
    ("train", "--config nowhere.json", "nowhere.json: cannot be read", ""),
    ("train", "--seeds 1 1", "--seeds: got [1, 1]", "differ"),
    ("train", "--seeds -1", "--seeds: got -1", "0 to 2**63 - 1"),
    ("train", "--seeds 1 2 --seed 3", "--seeds: got [1, 2]", "no --seed"),
    ("train", "--seeds 1 --resume RUN", "--seeds: got [1]", "--resume"),
    ("train", "--seeds 1 2 --run-dir RUN", "--run-dir: got", "empty"),
    ("train", "--seeds 1 2 --env bandt/n10-k5", "--env", "did you mean bandit/n10-k5"),
    ("train", "--print-config --env bandt/n10-k5", "--env", "did you mean bandit/n10-k5"),
    ("train", "--checkpoint-seconds 0", "--checkpoint-seconds: got 0.0", "above 0"),
    ("train", "--best-by success_after", "--best-by: got 'success_after'", "return_after"),
    ("train", "--resume RUN --best-by trial_return", "--best-by: got", "--iterations"),
    ("train", "--wandb-project mine", "--wandb-project", "pip install 'metarl-toolkit[wandb]'"),
    ("evaluate", "nowhere", "nowhere: not a run directory", ""),
    ("evaluate", "RUN --evaluation-tasks 0", "--evaluation-tasks: got 0", "at least 1"),
    ("evaluate", "RUN --episodes-per-trial 0", "--episodes-per-trial: got 0", "at least 1"),
    ("evaluate", "RUN --num-envs -1", "--num-envs: got -1", "at least 1"),
    ("evaluate", "RUN --seed -1", "--seed: got -1", "0 to 2**63 - 1"),
    ("evaluate", "RUN --device tpu", "--device: got 'tpu'", "cpu"),
    ("evaluate", "RUN --env bandit/n3", "--env", "bandit"),
    ("evaluate", "RUN --env half-cheetah/velocity", "space", ""),
    ("plot", "nowhere", "nowhere: not a run directory", ""),
    ("plot", "RUN --split train", "train.json", "cannot be read"),
    ("plot", "RUN --metric success", "--metric: got 'success'", "return"),
    ("plot", "RUN --output plot.bmp", "--output: got 'plot.bmp'", ".png"),
    ("plot", "RUN --kind paths --axis episodes", "--axis: got 'episodes'", "no axis"),
    ("compare", "RUN RUN", "RUNS: got", "RUN… -- RUN…, at least two groups"),
    ("compare", "RUN -- RUN", "RUNS: got", "each of them once"),
    ("compare", "RUN -- nowhere", "1 of 2 groups", "two or more"),
    ("compare", "RUN -- nowhere --at -1", "--at: got -1", "0 or more"),
    ("compare", "RUN -- nowhere --output x.txt", "--output: got 'x.txt'", ".csv"),
]


@pytest.mark.parametrize(
    ("script", "arguments", "said", "accepted"), OURS, ids=[f"{s} {a}" for s, a, *_ in OURS]
)
def test_bad_input_is_one_line_and_exit_code_two(
    call, trained, script, arguments, said, accepted, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    before = listing(trained.directory)
    code, out, error = call(script, *arguments.split())
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert accepted in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in out + error
    assert list(Path.cwd().iterdir()) == []  # nothing was begun
    assert listing(trained.directory) == before


def _edit(name, change):
    def damage(folder):
        path = folder / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def _all_checkpoints(name, data):
    def damage(folder):
        for checkpoint in (folder / "checkpoints").iterdir():
            (checkpoint / name).write_bytes(data)

    return damage


CONFIG, TENSORS = "config.json", "agent.safetensors"
DAMAGED = [
    ("no config", lambda f: (f / CONFIG).unlink(), "not a run directory"),
    ("config cut off", _write(CONFIG, b'{"format": 1, "agent"'), "config.json: cannot be read"),
    ("config of bytes", _write(CONFIG, b"\x80\x04\x95\xff"), "config.json: cannot be read"),
    ("config too deep", _write(CONFIG, b"[" * 99999), "config.json: cannot be read"),
    ("config a list", _write(CONFIG, b"[1]"), "config.json: not an object"),
    ("config of another format", _edit(CONFIG, lambda c: c.update(format=9)), "format 9"),
    ("no agent", _edit(CONFIG, lambda c: c.pop("agent")), "'agent' is missing"),
    ("no settings", _edit(CONFIG, lambda c: c.update(agent_config=[])), "'agent_config'"),
    ("no env", _edit(CONFIG, lambda c: c["train_config"].pop("env")), "no 'env'"),
    ("no specification", _edit(CONFIG, lambda c: c.pop("spec")), "but no run"),
    (
        "a number that is none",
        _edit(CONFIG, lambda c: c["agent_config"]["core"].update(hidden_size="many")),
        "hidden_size: got 'many'",
    ),
    (
        "a setting that is none",
        _edit(CONFIG, lambda c: c["train_config"].update(itertions=3)),
        "no 'itertions'; did you mean iterations",
    ),
    (
        "a length that is none",
        _edit(CONFIG, lambda c: c["train_config"].update(iterations=0)),
        "--iterations: got 0",
    ),
    (
        "an unknown agent",
        _edit(CONFIG, lambda c: c.update(agent="rl3")),
        "unknown agent 'rl3'",
    ),
    (
        "spaces that are none",
        _edit(CONFIG, lambda c: c["spec"].update(action={"type": "Box", "low": 3})),
        "space: got",
    ),
    (
        "derived from nothing",
        _edit(CONFIG, lambda c: c.update(derived=5)),
        "'derived' is not a list",
    ),
    ("metrics cut in two", _write("metrics.jsonl", b"{\n{}\n"), "metrics.jsonl, line 1"),
    ("checkpoints cut off", _all_checkpoints(TENSORS, b"cut"), "checksum"),
    ("checkpoints empty", _all_checkpoints("checkpoint.json", b""), "cannot be read"),
    (
        "checkpoints of another format",
        _all_checkpoints("checkpoint.json", b'{"format": 1}'),
        "format 1; this version reads 2",
    ),
]


@pytest.mark.parametrize(("what", "damage", "said"), DAMAGED, ids=[d[0] for d in DAMAGED])
@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_damaged_files_are_one_line_and_exit_code_two(
    call, trained, tmp_path, script, what, damage, said
):
    folder = tmp_path / "damaged"
    shutil.copytree(trained.directory, folder)
    damage(folder)
    if what.startswith("metrics") and script == "evaluate":
        return  # it does not read them
    before = listing(folder)
    options = ["--resume", str(folder), "--iterations", "3"] if script == "train" else [str(folder)]
    if what == "a length that is none":
        options = options[:2]
    code, out, error = call(script, *options)
    assert (code, error.count("\n")) == (2, 1), error
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in out + error
    assert listing(folder) == before


def test_a_damaged_newest_checkpoint_is_a_warning(call, trained, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(trained.directory, folder)
    (folder / "checkpoints" / "0000002" / TENSORS).write_bytes(b"cut")
    with pytest.warns(UserWarning, match="iteration 1 is loaded instead"):
        code, _, _ = call("train", "--resume", str(folder), "--iterations", "3")
    assert code == 0
    assert Run.open(folder).checkpoints.load().iteration == 3


# settings


def test_printed_settings_are_those_of_the_run_they_start(call, tmp_path):
    options = "--env bandit/n3-k2 --tasks-per-update 4 --hidden-size 6 --num-minibatches 2"
    options += " --iterations 2 --evaluation-tasks 3 --validation-tasks 2 --seed 5"
    code, text, _ = call("train", *options.split(), "--print-config")
    assert code == 0
    assert list(Path.cwd().iterdir()) == []
    Path("mine.json").write_text(text)
    assert call("train", "--config", "mine.json", "--run-dir", "one")[0] == 0
    assert call("train", "--config", "one", "--run-dir", "two")[0] == 0
    assert call("train", *options.split(), "--run-dir", "three")[0] == 0
    runs = [Run.open(Path(name)) for name in ("one", "two", "three")]
    settings = json.loads(text)
    for run in runs:
        for key in ("agent", "agent_config", "derived"):
            assert run.content[key] == settings[key]
        assert run.content["train_config"] == settings["train_config"]
        tensors = run.checkpoints.load().tensors
        assert all(x.equal(tensors[n]) for n, x in runs[0].checkpoints.load().tensors.items())


def test_derived_options_are_derived_again_for_another_length(trained):
    path = str(trained.directory / "config.json")
    assert parse_train(["--config", path]).settings.train.schedule_iterations is None
    assert trained.train_config.schedule_iterations == 2
    request = parse_train(["rl2", "--config", path, "--iterations", "9", "--seed", "4"])
    assert (request.settings.train.iterations, request.settings.train.seed) == (9, 4)
    assert request.settings.train.run.directory is None


def test_settings_of_no_run_cannot_be_resumed(call):
    Path("folder").mkdir()
    text = call("train", "--print-config")[1]
    Path("folder/config.json").write_text(text)
    code, _, error = call("train", "--resume", "folder")
    assert code == 2
    assert "metarl train --config uses them" in error


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("train", "--nonsense 3", "--nonsense"),
        ("train", "--iterations many", "--iterations"),
        ("train", "--learning-rate fast", "--learning-rate"),
        ("train", "--seed 1.5", "--seed"),
        ("train", "--seed 3 rl2", "rl2"),
        ("evaluate", "", "run"),
        ("evaluate", "RUN --split all", "--split"),
        ("evaluate", "RUN --nonsense", "--nonsense"),
        ("plot", "RUN --kind pie", "--kind"),
    ],
)
def test_words_that_the_parser_refuses_give_exit_code_two(call, script, arguments, said):
    code, out, error = call(script, *arguments.split())
    assert code == 2
    assert said.lower() in (out + error).lower()
    assert "Traceback" not in out + error
    assert list(Path.cwd().iterdir()) == []


def test_plot_without_runs_says_so(call):
    code, out, error = call("plot")
    assert code == 2
    assert "runs" in (out + error).lower()


def test_a_process_exits_with_two_and_no_traceback(tmp_path, quick_python):
    command = [quick_python, str(SCRIPTS / "train.py"), "--env", "bandt/n10-k5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --env: unknown environment 'bandt/n10-k5'")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_printed_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line("train", "--resume", "my run") == "python -m metarl train --resume 'my run'"
    (tmp_path / "metarl").touch(0o755)
    assert command_line("train", "--resume", "my run") == "metarl train --resume 'my run'"


def test_list_names_environments_agents_and_presets(call):
    code, out, error = call("train", "--list")
    assert (code, error) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    for name, entry in (registry.TASK_DISTRIBUTIONS | registry.AGENTS).items():
        assert [name, entry.description] in lines
    for name, preset in presets().items():
        assert [name, preset.source] in lines


# resume


def test_resuming_a_finished_run_says_so(call, trained):
    before = listing(trained.directory)
    code, out, _ = call("train", "--resume", "RUN")
    assert code == 0
    assert "finished" in out
    assert listing(trained.directory) == before


def test_resuming_with_the_same_options_is_accepted(trained):
    request = parse_train(["rl2", "--resume", str(trained.directory), "--seed", "0"])
    assert request.settings.train == trained.train_config
    assert request.settings.agent_config == trained.settings.agent_config


def test_a_resumed_run_may_train_longer_and_with_other_checks(call, trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.directory, copy)
    options = "--iterations 3 --validation-interval 1 --evaluation-tasks 2 --keep-checkpoints 1"
    code, out, _ = call("train", "--resume", str(copy), *options.split())
    assert code == 0
    assert "resumed after iteration 2" in out
    assert Run.open(copy).checkpoints.load().iteration == 3


# parsing


def test_without_arguments_it_is_rl2_on_a_bandit():
    request = parse_train([])
    assert (request.settings.agent, request.settings.train.env) == ("rl2", "bandit/n10-k5")
    assert request.settings.agent_config == RL2Config()
    assert request.resume is None


def test_options_reach_the_two_configs():
    common = "--preset none --env half-cheetah/velocity:high=2.0 --seed 3 --run-dir x"
    own = "--episodes-per-trial 2 --encoder-sizes 32 16 --target-kl None --learning-rate=1e-4"
    request = parse_train(["rl2", *common.split(), *own.split()])
    assert request.settings.train == with_options(
        TrainConfig(), env="half-cheetah/velocity:high=2.0", seed=3, run_dir=Path("x")
    )
    assert request.settings.agent_config == with_options(
        RL2Config(),
        episodes_per_trial=2,
        encoder_sizes=(32, 16),
        target_kl=None,
        learning_rate=1e-4,
    )


@pytest.mark.parametrize("name", presets())
def test_presets_parse_and_build(name):
    request = parse_train(["--preset", name])
    tasks = registry.make(request.settings.train.env)
    agent = registry.agent_class(request.settings.agent)(
        request.settings.agent_config, metarl.TaskSpec.of(tasks)
    )
    train = presets()[name].settings.train
    resolved = request.settings.train.resolve(agent, tasks)
    if train.iterations is not None:
        assert resolved.iterations == train.iterations
    else:
        steps = agent.tasks_per_update * agent.shape.num_episodes * tasks.horizon
        assert (resolved.iterations - 1) * steps < train.env_steps <= resolved.iterations * steps
    assert request.settings.agent_config == presets()[name].settings.agent_config


def test_a_preset_imports_no_other_library_than_its_own_agent_s(quick_python):
    code = """
import sys
from metarl.running.commandline import parse_train
parse_train(["--preset", "maml-ppo-navigation"])
assert "stable_baselines3" not in sys.modules
parse_train(["--preset", "ppo-multitask-navigation"])
assert "stable_baselines3" in sys.modules
"""
    done = subprocess.run([quick_python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_options_win_over_a_preset():
    (name, *_) = presets()
    request = parse_train(
        [presets()[name].settings.agent, "--preset", name, "--seed", "9", "--clip", "0.1"]
    )
    assert (request.settings.train.seed, option_values(request.settings.agent_config)["clip"]) == (
        9,
        0.1,
    )
    assert request.settings.train.env == presets()[name].settings.train.env


@pytest.mark.parametrize("option", ["--env-steps", "--env_steps"])
def test_env_steps_win_over_a_preset_s_iterations(option):
    (name, *_) = presets()
    config = parse_train(["--preset", name, option, "5000"]).settings.train
    assert (config.iterations, config.env_steps) == (None, 5000)


def test_no_agent_s_option_hides_a_common_one():
    import dataclasses

    common = {field.name for field in dataclasses.fields(TrainConfig)}
    for name in registry.AGENTS:
        own = {field.name for field in dataclasses.fields(registry.agent_class(name).Config)}
        assert not own & common


def test_an_unknown_agent_beside_a_preset_is_reported_first():
    (name, *_) = presets()
    with pytest.raises(UserError, match="unknown agent 'maml'"):
        parse_train(["maml", "--preset", name])


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("--normalize-observations=True", "--normalize-observations"),
        ("--normalize_observations=false", "--no-normalize_observations"),
        ("--normalize-observations 1", "--normalize-observations 1"),  # a positional of its own
        ("--normalize-observations=0 --seed=1", "--no-normalize-observations --seed=1"),
        ("--check False --seed 1", "--no-check --seed 1"),
        ("--normalize-observations --check", "--normalize-observations --check"),
        ("--env=true", "--env=true"),  # no flag
    ],
)
def test_flags_take_the_values_that_sweeps_send(given, plain):
    assert plain_flags(given.split(), TrainConfig, RL2Config) == plain.split()


def test_a_sweep_s_boolean_reaches_the_agent():
    for given, expected in (("=True", True), ("=False", False)):
        request = parse_train(["rl2", f"--normalize-observations{given}"])
        assert request.settings.agent_config.normalize_observations is expected


def test_a_flag_s_other_values_are_refused():
    with pytest.raises(UserError, match="--check: got 'maybe'; accepted: true or false"):
        parse_train(["rl2", "--check=maybe"])


def test_a_module_called_like_a_script_is_the_user_s(write_module, tmp_path, quick_python):
    """Python puts the folder of scripts first; each of them gives way to the current one."""
    names = ["train", "evaluate", "compare", "plot", "benchmark"]
    for name in names:
        write_module(name, "import metarl\nBANDIT = 'bandit/n3-k2'\n")
    others = "".join(f"import {name}\nassert {name}.BANDIT\n" for name in names[1:])
    made = f"{others}def tasks():\n    return metarl.make(BANDIT)\n"
    (tmp_path / "train.py").write_text((tmp_path / "train.py").read_text() + made)
    options = "rl2 --env train:tasks --print-config"
    done = subprocess.run(
        [quick_python, str(SCRIPTS / "train.py"), *options.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train_config"]["env"] == "train:tasks"
