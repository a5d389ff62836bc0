"""A mistake on the command line must cost seconds and one line, not an hour and a traceback: and it must never
leave a folder that looks like a run, nor touch one that is."""

import time

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from program import ROOT, checked, composed, gate, pgx

from pgx.config import CONF, RULES, check, options
from pgx.errors import ConfigError
from pgx.identity import identity
from pgx.networks import ACTIVATIONS
from pgx.optimiser import METHODS

UNWRITABLE = "/proc/x"  # also for root
SWEEP = f"hydra.searchpath=[file://{ROOT}/experiments/variant_stability/conf]"

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
    ("+variant=baseline env=acrobot +env.params.link_length_2=2", "env.params.link_length_2: cannot be set", "nowhere"),
    ("+variant=baseline env=acrobot +env.params.available_torque=2", "env.params.available_torque: cannot", "no number"),
    ("+variant=baseline +env.params={masscart:5,total_mass:2}", "env.params.masscart: would do nothing", "leave one"),
    ("+variant=baseline +env.kwargs.x=1", "env.kwargs: the chosen env has no such key", "env.params"),
    ("+variant=baseline env=gymnasium_cartpole +env.params.gravity=1", "env.params: the chosen env", "env.kwargs"),
    ("+variant=baseline +env.params.max_steps_in_episode=0", "env.params.max_steps_in_episode: 0 is not", "≥ 1"),
    ("+variant=baseline ~seed", "seed: cannot be removed", ""),
    ("+variant=baseline ~env", "env: cannot be removed", ""),
    ("+variant=vanilla critic.width=3", "critic.width: the chosen critic has no such key", ""),
    ("+variant=baseline estimator.lam=1", "estimator.lam: the chosen estimator has no such key", ""),
    ("", "variant: none chosen", "+variant=baseline|dr_grpo|gae|grpo|leave_one_out|maxrl|natural|"),
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
    # numbers that no run can have, or that 32 bits cannot hold
    ("+variant=baseline policy.width=1e12", "policy.width: 1000000000000.0 is not allowed", "from 1 to 65536"),
    ("+variant=baseline diagnose_every=1e12", "diagnose_every: 1000000000000.0 is not allowed", "< 2³¹"),
    ("+variant=baseline optimiser.learning_rate=1e300", "optimiser.learning_rate: 1e+300 is not allowed", "> 0"),
    (f"+variant=baseline gamma={10**400}", "gamma: 1000", "… (401 characters) is not allowed"),
    ("+variant=baseline num_env_steps=1.5G", "num_env_steps: '1.5G' is not allowed", "a whole number"),
    # the tracker's keys have rules as all others have
    ("+variant=baseline tracker=wandb tracker.mode=onlin", "tracker.mode: 'onlin' is not allowed", "offline | online"),
    ("+variant=baseline tracker=wandb tracker.patience=long", "tracker.patience: 'long' is not allowed", "≥ 0"),
    ("+variant=baseline tracker=wandb tracker.patience=-1", "tracker.patience: -1 is not allowed", "≥ 0"),
    ("+variant=baseline tracker=wandb tracker.project=[1]", "tracker.project: [1] is not allowed", "a name"),
    # interpolations
    ("+variant=baseline gamma=${gamma}", "gamma: Recursive interpolation", ""),
    ("+variant=baseline gamma=${gama}", "gamma: Interpolation key 'gama' not found", ""),
    ("+variant=baseline seed=${oc.env:NOT_SET_ANYWHERE}", "seed: KeyError", "NOT_SET_ANYWHERE"),
    ("+variant=baseline seed='5'", "seed: '5' is not allowed", "${oc.decode:${oc.env:NAME}}"),
    # other programs' names, other choices' keys, and what leads nowhere
    ("+variant=baseline optimizer=sgd", "optimizer: unknown key", "did you mean 'optimiser'?"),
    ("+variant=baseline optimiser.lr=0.1", "optimiser.lr: unknown", "did you mean 'optimiser.learning_rate'?"),
    ("+variant=baseline critic.optimizer.lr=0.1", "critic.optimizer.lr", "did you mean 'critic.optimiser.learning_rate'?"),
    ("+variant=baseline learning_rte=0.1", "learning_rte: unknown", "did you mean 'optimiser.learning_rate'?"),
    ("+variant=baseline batch_size=20", "batch_size: unknown key", "did you mean 'episodes_per_update'?"),
    ("+variant=baseline policy={wide:4}", "policy.wide: unknown key; allowed: policy.width", "'policy.width'?"),
    ("+variant=baseline estimator.lamda=1", "estimator.lamda: unknown key", "did you mean 'estimator.lam'?"),
    ("+variant=vanilla critic.depth=3", "critic.depth: the chosen critic", "critic=value_network has it"),
    ("+variant=vanilla critic.optimiser.b1=0", "critic.optimiser.b1: the chosen", "critic=value_network has it"),
    ("+variant=baseline optimiser.momentum=0", "optimiser.momentum: the chosen", "optimiser=sgd has it"),
    ("+variant=baseline env.params.gravity=5", "env.params.gravity: not set yet", "put a + before it"),
    ("+variant=baseline env.params={gravity:5}", "env.params.gravity: not set yet", "put a + before it"),
    ("+variant=baseline env.kwargs=5", "env.kwargs", "+env.kwargs.NAME=…"),
    ("+variant=baseline +seed=1", "seed: is there already", "leave the + out"),
    ("+variant=baseline ++seed=1", "seed: is there already", "leave the ++ out"),
    ("+variant=baseline critic.lr=1", "critic.lr: unknown key", "did you mean 'critic.optimiser.learning_rate'?"),
    ("+variant=baseline hydra/job_logging=foo", "hydra/job_logging: there is no 'foo'", "disabled, none"),
    ("+variant=baseline env=gymnasium env.id=MountinCar-v0", "no Gymnasium", "did you mean 'MountainCar-v0'?"),
    ("+experiment=pendulum +variant=ppo", "variant: is chosen already, by a file", "leave the + out: variant=ppo"),
    ("+variant=baseline device=gpu", "device: unknown key", "JAX_PLATFORMS=cpu"),
    ("+variant=baseline hydra/launcher=joblib", "hydra/launcher: there is no 'joblib'", "basic, pgx, slurm"),
    (f"{SWEEP} +experiment=variant_stability", "variant: none chosen", "add -m"),
    ("+variant=baseline num_env_steps=0", "num_env_steps: 0 is not allowed", "or null"),
    ("+variant=baseline num_env_steps=null", "num_env_steps and num_updates are both null", ""),
    ("+variant=baseline whiten=2", "whiten: 2 is not allowed", "true or false"),
    ("+variant=baseline policy.activation=relo", "policy.activation: 'relo' is not allowed", "relu | tanh"),
    ("+variant=baseline policy.width=null", "policy.width: None is not allowed", "from 1 to"),
    ("+variant=reward_to_go bootstrap_truncated=true", "bootstrap_truncated: there is no V(s)", "critic=value_network"),
    ("+variant=baseline optimiser.schedule=linear", " optimiser.decay_steps: schedule linear needs it", "≥ 1"),
    ("+variant=baseline critic.optimiser.schedule=cosine", " critic.optimiser.decay_steps: schedule cosine", "≥ 1"),
    ("+variant=baseline env=gymnasium_cartpole env.num_lanes=11", "env.num_lanes: 11 lanes have only 10", "at most"),
    (
        "+variant=leave_one_out episodes_per_update=1",
        "episodes_per_update: pgx.critics.LeaveOneOut has no baseline for 1",
        "≥ 2",
    ),
    (
        "+variant=grpo episodes_per_update=12",
        "group_size: episodes_per_update=12 is no number of groups of 5",
        "=15, or another",
    ),
    ("+variant=grpo group_size=null", "group_size: pgx.critics.GroupStandardised compares the episodes of a group", "≥ 2"),
    ("+variant=vanilla critic=group_mean", "group_size: pgx.critics.GroupMean compares the episodes of a group", "≥ 2"),
    ("+variant=dr_grpo group_size=1", "group_size: 1 is not allowed", "a whole number ≥ 2"),
    (
        "+variant=grpo episodes_per_update=null steps_per_update=900 max_episodes_per_update=8",
        "group_size: max_episodes_per_update=8 is no number of groups of 5",
        "max_episodes_per_update=10, or another",
    ),
    (
        "+variant=maxrl env=acrobot",
        "critic.failure: 0 is no failure on Acrobot-v1, where -100 counts as solved",
        "less than -100",
    ),
    ("+variant=maxrl env=pendulum critic.failure=-20", "critic.failure: -20 is no failure on Pendulum-v1", "less than -20"),
    ("+variant=grpo aggregation=mean", "aggregation: 'mean' is not allowed", "sum | own_mean | batch_mean"),
    (
        "+variant=grpo update.whiten_minibatches=true",
        "update.whiten_minibatches: would whiten the factors of the aggregation",
        "use whiten",
    ),
    ("+variant=grpo bootstrap_truncated=true", "bootstrap_truncated: there is no V(s)", "critic=value_network"),
    (
        "+variant=grpo env=gymnasium_cartpole env.num_lanes=3",
        "env.num_lanes: 3 lanes have only 2 groups",
        "at most one a group",
    ),
    ("+variant=baseline env.id=CartPole-v2", "env.id: no compiled environment", "did you mean 'CartPole-v1'?"),
    ("+variant=baseline env=gymnasium", "env.id: not chosen yet", "env.id=CartPole-v1"),
    ("+variant=baseline env=gymnasium env.id=Hopper-v3", "env.id: Hopper-v3 cannot be made", "gymnasium-robotics"),
    ("+variant=baseline env=pendulum env.bound=tan", "env.bound: 'tan' is not allowed", "clip | tanh | none"),
    ("+variant=baseline env.bound=tanh", "env.bound: the chosen env has no such key", "env=brax|gymnasium|mountain_car"),
    (
        "+variant=baseline env=gymnasium env.id=CartPole-v1 env.bound=tanh",
        "env.bound: CartPole-v1 has discrete actions",
        "leave it out",
    ),
    ("+variant=baseline policy.clipped_score=true", "policy.clipped_score: CartPole-v1 has discrete actions", "leave it out"),
    ("+variant=baseline env=acrobot policy.std=0.5", "policy.std: Acrobot-v1 has discrete actions", "leave it out"),
    (
        "+variant=baseline env=pendulum env.bound=tanh policy.clipped_score=true",
        "policy.clipped_score: with env.bound=tanh no action is cut off",
        "env.bound=clip",
    ),
    ("+variant=baseline env=pendulum policy.std=0.001", "policy.std: 0.001 is below the floor", "0.00674"),
    ("+variant=baseline env=pendulum policy.std=0", "policy.std: 0 is not allowed", "> 0"),
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
        "+variant=baseline policy.clipped_score=true",
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


def test_a_group_or_key_that_a_file_takes_away_is_named():
    """A KeyError deep in the program would not say which file is to blame."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", ["tracker=none", "+variant=baseline"])
    for path, says in {
        "policy": "policy: none chosen; allowed: policy=mlp",
        "critic": "critic: none chosen",
        "env.id": "env.id: the chosen env does not say it",
        "policy._target_": "policy._target_: the chosen policy does not say it",
        "optimiser._target_": "optimiser._target_: the chosen optimiser",
    }.items():
        config = OmegaConf.create(OmegaConf.to_container(whole))
        group, _, key = path.rpartition(".")
        del (OmegaConf.select(config, group) if group else config)[key]
        with pytest.raises(ConfigError) as error:
            check(config)
        assert says in str(error.value)


def test_files_of_the_working_folder_do_not_take_the_place_of_libraries(tmp_path):
    """`python -m` looks into the working folder first: a random.py of somebody's notes was imported for Python's."""
    for module in ("random", "jax", "numpy", "socket", "omegaconf"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('this is my {module}')")
    (tmp_path / "mylab.py").write_text("import gymnasium as g\ng.register('Mine-v0', 'nowhere:Mine', max_episode_steps=3)")
    done = pgx("+variant=vanilla", "env=gymnasium", "env.id=mylab:Mine-v0", cwd=tmp_path)  # but mylab is found
    assert done.returncode == 2 and "mylab:Mine-v0 needs a package that is not installed; pip install 'nowhere'" in done.stderr


@pytest.mark.parametrize("option", ["none", "disabled", "stdout"])
def test_hydras_own_logging_options_find_whole_handlers(option):
    """They leave out Hydra's default, which ours were an addition to: "Unable to configure handler 'console'"."""
    with composed("+variant=baseline", f"hydra/job_logging={option}") as config:
        handlers = OmegaConf.to_container(config.hydra.job_logging.handlers, resolve=False)
    assert handlers["console"]["class"] == "logging.StreamHandler" and handlers["console"]["stream"] == "ext://sys.stderr"
    assert handlers["file"]["class"] == "logging.FileHandler" and "filename" in handlers["file"]


def test_help_has_the_keys_of_every_choice(capsys):
    """The default choices hide most keys: `critic.width` and the cart's mass were nowhere to be found."""
    with composed() as config:
        text = config.hydra.help.template
    for line in ("critic=value_network: activation, clip, depth, ", "estimator=lambda_return: gamma, lam"):
        assert line in text
    assert "of CartPole-v1: gravity, masscart, masspole" in text and "optimiser=sgd: clip_norm" in text


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
        "optimiser: {learnin_rate: 1}": "optimiser.learnin_rate: unknown key; allowed: optimiser.method, ",
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
    assert checked("+variant=gae", "num_env_steps=1.5M", "num_updates=2k")["num_env_steps"] == 1_500_000
    assert config["num_env_steps"] == 1_000_000 and type(config["num_env_steps"]) is int
    assert type(config["gamma"]) is float and config["estimator"]["gamma"] == 1.0
    assert config["seed"] == 2**32 - 1
    assert type(config["env"]["params"]["gravity"]) is float


def test_a_variant_is_an_estimator_a_critic_and_an_update():
    """Independent choices, and nothing else differs between variants: but those of another update whiten, `natural` takes
    another optimiser, and those that compare episodes of one start ask for groups, as their files say."""
    pairs = {name: checked(f"+variant={name}") for name in options("variant")}
    seen = {name: (c["estimator"]["_target_"], c["critic"]["_target_"]) for name, c in pairs.items()}
    assert seen["vanilla"] == ("pgx.estimators.vanilla", "pgx.critics.NoCritic")
    assert seen["reward_to_go"] == ("pgx.estimators.reward_to_go", "pgx.critics.NoCritic")
    assert seen["baseline"] == ("pgx.estimators.reward_to_go", "pgx.critics.ValueNetwork")
    assert seen["gae"] == ("pgx.estimators.lambda_return", "pgx.critics.ValueNetwork")
    assert seen["leave_one_out"] == ("pgx.estimators.vanilla", "pgx.critics.LeaveOneOut")
    others = {name: pairs.pop(name) for name in ("ppo", "natural", "trpo")}
    assert {seen.pop(name) for name in others} == {seen["gae"]}
    assert len({c["update"]["_target_"] for c in (pairs["gae"], *others.values())}) == 4
    assert seen.pop("reinforce_plus_plus") == seen["vanilla"] and len(set(seen.values())) == len(seen)
    changes = lambda name: {key for key, x in pairs.pop(name).items() if x != pairs["vanilla"][key]} - {"variant"}
    assert changes("reinforce_plus_plus") == {"update", "whiten"}
    assert changes("grpo") == {"critic", "update", "group_size", "aggregation"}
    assert changes("dr_grpo") == {"critic", "update", "group_size"}
    assert changes("maxrl") == {"critic", "group_size"}
    own = ("variant", "estimator", "critic")
    rest = [{key: x for key, x in config.items() if key not in own} for config in pairs.values()]
    assert all(other == rest[0] for other in rest)
    changed = {name: {key for key, x in config.items() if x != pairs["gae"][key]} for name, config in others.items()}
    assert changed.pop("natural") == {"variant", "update", "whiten", "optimiser"}
    assert all(keys == {"variant", "update", "whiten"} for keys in changed.values())


def test_every_file_of_every_group_passes_the_check():
    """A typo in a YAML that nobody has tried yet."""
    ids = {"gymnasium": "CartPole-v1", "mujoco": "CartPole-v1", "playground": "CheetahRun", "brax": "ant"}
    for group in ("env", "estimator", "policy", "optimiser", "update"):
        for option in options(group):
            more = [f"env.id={ids[option]}"] if option in ids else []
            checked("+variant=baseline", f"{group}={option}", *more)
    for option in options("optimiser"):
        config = checked("+variant=baseline", f"optimiser@critic.optimiser={option}")
        assert config["critic"]["optimiser"]["method"] == option
        assert config["optimiser"]["method"] == "adam"


def test_every_experiment_passes_the_check_and_says_its_command():
    files = sorted((CONF / "experiment").glob("*.yaml"))
    for file in files:
        config = checked(f"+experiment={file.stem}")
        assert f"# python -m pgx.run +experiment={file.stem}\n" in file.read_text()
        assert config["variant"] in ("gae", "ppo")
        assert config["num_env_steps"] <= 2_000_000 or "for a GPU" in file.read_text()
    assert len(files) >= 6


def test_what_does_not_change_results_is_no_part_of_the_identity():
    """config_hash groups runs: changing how often a checkpoint is written must not make it another experiment."""
    base = identity(checked("+variant=baseline"))
    same = ("checkpoint_every=7", "checkpoints_kept=1", "updates_per_chunk=3")
    assert identity(checked("+variant=baseline", *same)) == base
    for other in ("seed=1", "gamma=0.5", "env=acrobot", "optimiser.b1=0.8", "whiten=true", "xla_threads=2"):
        assert identity(checked("+variant=baseline", other)) != base, other


def test_the_names_that_are_allowed_before_jax_is_imported_are_those_that_there_are():
    for key, names in (("policy.activation", ACTIVATIONS), ("optimiser.method", METHODS)):
        assert RULES[key].allowed.split(" | ") == list(names)


def test_the_whole_configuration_is_data():
    """The learner gets plain numbers: a DictConfig inside it would be read at every trace."""
    config = checked("+variant=baseline")
    assert not OmegaConf.is_config(config) and type(config["critic"]["optimiser"]) is dict
