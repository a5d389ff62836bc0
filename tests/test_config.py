"""A mistake on the command line must cost seconds and one line, not an hour and a traceback: and it must never
leave a folder that looks like a run, nor touch one that is."""

import os
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from program import checked, finish, gate, pgx, start

from pgx.config import CONF, check, identity, options
from pgx.errors import ConfigError
from pgx.gate import _claim

UNWRITABLE = "/proc/x"  # also for root

# (overrides, what the one line must say): the key, and what helps
MISTAKES = [
    ("+variant=baselin", "variant: there is no 'baselin'", "did you mean 'baseline'?"),
    ("+variant=baseline env=cartpol", "env: there is no 'cartpol'", "did you mean 'cartpole'?"),
    ("+variant=baseline optimiser=adan", "optimiser: there is no 'adan'", "did you mean 'adam'?"),
    ("+variant=baseline optimiser@critic.optimiser=sdg", "optimiser: there is no 'sdg'", "did you mean 'sgd'?"),
    ("+variant=baseline sed=1", "sed: unknown key", "did you mean 'seed'?"),
    ("+variant=baseline optimiser.learnin_rate=1", "optimiser.learnin_rate: unknown", "'optimiser.learning_rate'?"),
    ("+variant=baseline +estimator.gama=1", "estimator.gama: unknown key", "did you mean 'estimator.gamma'?"),
    ("+variant=baseline ++foo=1", "foo: unknown key", ""),
    ("+variant=baseline +env.params.gravty=1", "env.params.gravty: unknown key", "did you mean 'gravity'?"),
    ("+variant=baseline +env.params.gravity=high", "env.params.gravity: 'high' is not", "a number"),
    ("+variant=baseline +env.params.max_steps_in_episode=0", "env.params.max_steps_in_episode: 0 is not", "≥ 1"),
    ("+variant=baseline ~seed", "seed: cannot be removed", ""),
    ("+variant=baseline ~env", "env: cannot be removed", ""),
    ("+variant=vanilla critic.width=3", "critic.width: the chosen critic has no such key", ""),
    ("+variant=baseline estimator.lam=1", "estimator.lam: the chosen estimator has no such key", ""),
    ("", "variant: none chosen", "+variant=baseline|gae|leave_one_out|reward_to_go|vanilla"),
    ("variant=baseline", "variant: not chosen yet", "put a + before it"),
    ("+variant=baseline seed=abc", "seed: 'abc' is not allowed", "a whole number from 0 to 4294967295"),
    ("+variant=baseline seed=4294967296", "seed: 4294967296 is not allowed", "4294967295"),
    ("+variant=baseline seed=-1", "seed: -1 is not allowed", "from 0"),
    ("+variant=baseline seed=0.5", "seed: 0.5 is not allowed", "a whole number"),
    ("+variant=baseline seed=1,2", "command line: Ambiguous value", "add -m"),
    ("+variant=baseline optimiser.learning_rate=0", "optimiser.learning_rate: 0 is not allowed", "> 0"),
    ("+variant=baseline optimiser.learning_rate=-0.1", "optimiser.learning_rate: -0.1 is not allowed", "> 0"),
    ("+variant=baseline optimiser.learning_rate=nan", "optimiser.learning_rate: nan is not allowed", "> 0"),
    ("+variant=baseline optimiser.learning_rate=inf", "optimiser.learning_rate: inf is not allowed", "> 0"),
    ("+variant=baseline gamma=1.01", "gamma: 1.01 is not allowed", "[0, 1]"),
    ("+variant=baseline gamma=-0.1", "gamma: -0.1 is not allowed", "[0, 1]"),
    ("+variant=baseline estimator.gamma=2", "estimator.gamma: 2 is not allowed", "[0, 1]"),
    ("+variant=baseline episodes_per_update=0", "episodes_per_update: 0 is not allowed", "≥ 1"),
    ("+variant=baseline episodes_per_update=true", "episodes_per_update: True is not allowed", "a whole number"),
    ("+variant=baseline num_updates=0", "num_updates: 0 is not allowed", "or null"),
    ("+variant=baseline num_env_steps=0", "num_env_steps: 0 is not allowed", "or null"),
    ("+variant=baseline num_env_steps=null", "num_env_steps and num_updates are both null", ""),
    ("+variant=baseline whiten=2", "whiten: 2 is not allowed", "true or false"),
    ("+variant=baseline policy.activation=relo", "policy.activation: 'relo' is not allowed", "relu | tanh"),
    ("+variant=baseline policy.width=null", "policy.width: None is not allowed", "≥ 1"),
    ("+variant=reward_to_go bootstrap_truncated=true", "bootstrap_truncated: there is no V(s)", "critic=value_network"),
    ("+variant=baseline optimiser.schedule=linear", " optimiser.decay_updates: schedule linear needs it", "≥ 1"),
    ("+variant=baseline critic.optimiser.schedule=cosine", " critic.optimiser.decay_updates: schedule cosine", "≥ 1"),
    ("+variant=baseline env=gymnasium_cartpole env.num_lanes=11", "env.num_lanes: 11 lanes have only 10", "at most"),
    ("+variant=leave_one_out episodes_per_update=1", "episodes_per_update: leave-one-out has no other", "≥ 2"),
    ("+variant=baseline env.id=CartPole-v2", "env.id: no compiled environment", "did you mean 'CartPole-v1'?"),
    ("+variant=baseline env=gymnasium", "env.id: Missing mandatory value", ""),
    ("+variant=baseline env=gymnasium env.id=Pendulum-v1", "env.id: Pendulum-v1 has the actions Box", "discrete"),
    ("+variant=baseline env=gymnasium env.id=CartPol-v1", "env.id: no Gymnasium", "did you mean 'CartPole-v1'?"),
    ("+variant=baseline env=gymnasium env.id=CartPole", "env.id: no Gymnasium", "did you mean 'CartPole-v1'?"),
    ("+variant=baseline env=gymnasium env.id=nomodule:Foo-v0", "env.id: nomodule:Foo-v0 cannot be made", ""),
    ("+variant=baseline env=gymnasium env.id=CliffWalking-v1", "env.max_steps: CliffWalking-v1", "≥ 1"),
    ("+variant=baseline env=gymnasium_cartpole +env.kwargs.foo=1", "env.id: CartPole-v1 cannot be made", "'foo'"),
    ("+variant=baseline env.reward_threshold=null stop_when_solved=true", "stop_when_solved: CartPole-v1 has no", ""),
    (f"+variant=baseline hydra.run.dir={UNWRITABLE}", f"hydra.run.dir: cannot write {UNWRITABLE}", ""),
]


@pytest.mark.parametrize(("overrides", "says", "helps"), MISTAKES, ids=[case[0] or "nothing" for case in MISTAKES])
def test_a_mistake_gives_one_line_before_a_folder_exists(overrides, says, helps, tmp_path, monkeypatch, capsys):
    """Every rule, through the gate that Hydra calls: which key, what is wrong, what would do."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        gate(*overrides.split())
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert err.startswith("pgx: ") and err.count("\n") == 1 and not out
    assert says in err and helps in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "overrides",
    [
        "+variant=baselin",
        "+variant=baseline sed=1",
        "+variant=baseline seed=-1",
        "+variant=baseline +env.params.gravty=1",
        "+variant=baseline env=gymnasium env.id=Pendulum-v1",
        "+variant=baseline hydra.run.dir=/etc/passwd/x",
        "+variant=baseline policy=[1]",
    ],
)
def test_a_mistake_ends_the_real_program_quickly(overrides, tmp_path):
    """The same through the whole program: Hydra has its own opinion of errors, folders and exit codes."""
    started = time.monotonic()
    done = pgx(*overrides.split(), cwd=tmp_path)
    assert time.monotonic() - started < 5  # 0.5 to 1.5 s; a jax import would not fit much longer
    assert done.returncode == 2
    assert done.stderr.startswith("pgx: ") and done.stderr.count("\n") == 1 and not done.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    """`env.id=LunarLander-v3` fails deep in Gymnasium without Box2D; people should not have to guess its pip name."""
    import builtins

    import_ = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("Box2D", "ale_py"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return import_(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"LunarLander-v3 needs a package .* pip install 'gymnasium\[box2d\]'"):
        checked("+variant=baseline", "env=gymnasium", "env.id=LunarLander-v3")


def test_a_mistake_in_a_config_file_is_found_like_one_on_the_command_line(tmp_path):
    """A study's YAML is as easy to mistype, and Hydra's struct mode does not look at keys that a file adds."""
    for text, says in {
        "optimiser: {learnin_rate: 1}": "optimiser.learnin_rate: unknown key; did you mean 'optimiser.learning_rate'",
        "sed: 1": "sed: unknown key",
        "env: {params: {gravty: 1}}": "env.params.gravty: unknown key",
        "seed: abc": "seed: 'abc' is not allowed",
        "gamma: .nan": "gamma: nan is not allowed",
        "num_updates: yes": "num_updates: True is not allowed",
    }.items():
        (tmp_path / "study.yaml").write_text(f"# @package _global_\n{text}\n")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            search = f"hydra.searchpath=[file://{tmp_path.parent}]"
            config = compose("config", [search, "+variant=baseline", f"+{tmp_path.name}=study", "tracker=none"])
        with pytest.raises(ConfigError) as error:
            check(config)
        assert says in str(error.value)


def test_numbers_are_read_as_their_rule_says():
    """1e6 on the command line is a float and `gamma=1` an int: the program must see the type it is written for."""
    config = checked("+variant=gae", "num_env_steps=1e6", "gamma=1", "seed=4294967295", "+env.params.gravity=9")
    assert config["num_env_steps"] == 1_000_000 and type(config["num_env_steps"]) is int
    assert type(config["gamma"]) is float and config["estimator"]["gamma"] == 1.0
    assert config["seed"] == 2**32 - 1
    assert type(config["env"]["params"]["gravity"]) is float


def test_a_variant_is_an_estimator_and_a_critic():
    """The table of DESIGN §2: two independent choices, and nothing else differs between variants."""
    pairs = {name: checked(f"+variant={name}") for name in options("variant")}
    seen = {name: (c["estimator"]["_target_"], c["critic"]["_target_"]) for name, c in pairs.items()}
    assert seen["vanilla"] == ("pgx.estimators.vanilla", "pgx.critics.NoCritic")
    assert seen["reward_to_go"] == ("pgx.estimators.reward_to_go", "pgx.critics.NoCritic")
    assert seen["baseline"] == ("pgx.estimators.reward_to_go", "pgx.critics.ValueNetwork")
    assert seen["gae"] == ("pgx.estimators.lambda_return", "pgx.critics.ValueNetwork")
    assert seen["leave_one_out"] == ("pgx.estimators.vanilla", "pgx.critics.LeaveOneOut")
    assert len(set(seen.values())) == len(seen)
    own = ("variant", "estimator", "critic")
    rest = [{key: x for key, x in config.items() if key not in own} for config in pairs.values()]
    assert all(other == rest[0] for other in rest)


def test_every_file_of_every_group_passes_the_check():
    """A typo in a YAML that nobody has tried yet."""
    for group in ("env", "estimator", "policy", "optimiser"):
        for option in options(group):
            more = ["env.id=CartPole-v1"] if (group, option) == ("env", "gymnasium") else []
            checked("+variant=baseline", f"{group}={option}", *more)
    for option in options("optimiser"):
        config = checked("+variant=baseline", f"optimiser@critic.optimiser={option}")
        assert config["critic"]["optimiser"]["method"] == option
        assert config["optimiser"]["method"] == "adam"


def test_what_does_not_change_results_is_no_part_of_the_identity():
    """config_hash groups runs: changing how often a checkpoint is written must not make it another experiment."""
    base = identity(checked("+variant=baseline"))
    same = ("checkpoint_every=7", "checkpoints_kept=1", "updates_per_chunk=3")
    assert identity(checked("+variant=baseline", *same)) == base
    for other in ("seed=1", "gamma=0.5", "env=acrobot", "optimiser.b1=0.8", "whiten=true", "xla_threads=2"):
        assert identity(checked("+variant=baseline", other)) != base, other


def test_the_whole_configuration_is_data():
    """The learner gets plain numbers: a DictConfig inside it would be read at every trace."""
    config = checked("+variant=baseline")
    assert not OmegaConf.is_config(config) and type(config["critic"]["optimiser"]) is dict


# Folders.


def test_a_new_folder_is_never_shared(tmp_path):
    """Folders are named by the second, and a script starts ten runs in one: two in a folder would mix their rows."""
    pids, claims = [], tmp_path / "claims"
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            names = [str(_claim(tmp_path / "day" / "12-00-00")) for _ in range(20)]
            with open(claims, "a") as file:
                file.write("".join(name + "\n" for name in names))
            os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    names = claims.read_text().split()
    assert len(names) == len(set(names)) == 160
    assert {Path(name).name for name in names} == {"12-00-00"} | {f"12-00-00-{n}" for n in range(2, 161)}


def test_runs_and_multiruns_of_the_same_second_get_folders_of_their_own(tmp_path):
    """The same through Hydra, which makes the folder anew and, in a multirun, its name anew for every member."""
    pinned = ["+variant=vanilla", "num_updates=1", "episodes_per_update=2", "env=catch"]
    # Hydra's clock, stopped: otherwise the two might start in different seconds, and the test prove nothing
    stopped = {"PYTHONPATH": os.pathsep.join((str(_stopped_clock(tmp_path)), str(CONF.parent)))}
    singles = [start(*pinned, cwd=tmp_path, **stopped) for _ in range(2)]
    multis = [start("-m", *pinned, f"seed={seed}", cwd=tmp_path, **stopped) for seed in (1, 2)]
    for done in map(finish, singles + multis):
        assert done.returncode == 0, done.stderr
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("run.json")}
    times = ("2026-01-02/03-04-05", "2026-01-02/03-04-05-2")
    assert found == {f"outputs/{time}" for time in times} | {f"multirun/{time}/0" for time in times}


def _stopped_clock(tmp_path: Path) -> Path:
    """A folder whose sitecustomize makes `${now:…}` always say the same."""
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import hydra.core.utils as u, datetime\n"
        "class Stopped(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return cls(2026, 1, 2, 3, 4, 5)\n"
        "u.datetime = Stopped\n"
    )
    return folder


def test_a_refused_run_leaves_the_named_folder_and_what_is_in_it(tmp_path, monkeypatch):
    """`hydra.run.dir=~/thesis +env.params.gravty=1` once deleted the folder, whatever else it held."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        gate("+variant=baseline", "+env.params.gravty=1", f"hydra.run.dir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# Multiruns.


def test_a_wrong_member_under_hydras_own_launcher_stops_neither_the_others_nor_success_from_being_denied(tmp_path):
    """One mistyped value must not cost a night of sweeping, and a script must be able to see that one was wrong.
    (Our own launcher checks all members before it runs one: test_sweep.py.)"""
    done = pgx(
        "-m", "hydra/launcher=basic", "+variant=vanilla", "env=catch", "num_updates=1", "seed=0,-1,1", "hydra.sweep.dir=s", cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pgx: seed: -1 is not allowed") and "Traceback" not in done.stderr
    assert [(tmp_path / "s" / member / "run.json").exists() for member in "012"] == [True, False, True]
    before = (tmp_path / "s/0/metrics.csv").read_bytes()
    # the same folder for other members: their results must not be taken for these
    done = pgx(
        "-m", "hydra/launcher=basic", "+variant=vanilla", "env=catch", "num_updates=1", "seed=5", "hydra.sweep.dir=s", cwd=tmp_path
    )
    assert done.returncode == 2 and "pgx: seed: 0 → 5: " in done.stderr
    assert (tmp_path / "s/0/metrics.csv").read_bytes() == before
