"""The `vmap` executor: runs side by side in one program, and each as if it were alone in it."""

import fcntl
import os
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import checked, children, finish, ledger, pgx, results, rows, start, summary

from pgx import build
from pgx.lanes import largest
from pgx.loop import Limits
from pgx.runners import Lane, PackRunner, lanes_at_once, make_runner
from pgx.sweep.launch import batches
from pgx.sweep.members import Member, program

WIDTH = 8
SIZES = {"num_episodes": 3, "max_updates": 6}
FOREVER = Limits(6)


def lane(*overrides: str) -> Lane:
    config = checked("+variant=baseline", "episodes_per_update=3", "diagnose_every=4", *overrides)
    env, algorithm = build.build(config)
    state, _ = build.initial_state(config, env, algorithm)
    return build.lane(config, env, algorithm, state)


def pack(*lanes: Lane) -> PackRunner:
    return PackRunner(lanes, width=WIDTH, **SIZES)


def bits(chunk) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((chunk.rows, chunk.state))]


@pytest.fixture(scope="module")
def member():
    """A run, and its first two chunks in a pack of its own."""
    one = lane("seed=3")
    runner = pack(one)
    return one, [bits(runner([FOREVER])[0]) for _ in range(2)]


OTHERS = [("seed=0",), ("seed=1", "optimiser.learning_rate=0.1"), ("seed=2", "gamma=0.9"), ("seed=4", "diagnose_every=3")]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_bits_depend_neither_on_companions_nor_on_the_place(member, place):
    one, alone = member
    others = [lane(*overrides) for overrides in OTHERS]
    runner = pack(*others[:place], one, *others[place:])
    for chunk in alone:
        # some companions stop in the middle, one never starts
        limits = [Limits(n) for n in (2, 6, 5)] + [None, Limits(6, 40)]
        limits[place] = FOREVER
        assert bits(runner(limits)[place]) == chunk


def test_a_lane_stands_still_until_it_has_limits(member):
    one, alone = member
    runner = pack(lane("seed=0"), one)
    assert runner([FOREVER, None])[1] is None
    assert runner([FOREVER])[0] is not None
    assert [bits(runner([None, FOREVER])[1]) for _ in range(2)] == alone


def test_a_lane_that_diverges_harms_nobody_and_keeps_its_last_finite_state(member):
    one, alone = member
    runner = pack(lane("seed=3", "optimiser.learning_rate=1e30"), one)
    wild, well = runner([FOREVER, FOREVER])
    assert wild.not_finite is not None and len(wild.rows["env_steps"]) < 6
    assert int(wild.state.update) == len(wild.rows["env_steps"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((wild.state.policy, wild.state.critic)))
    assert well.not_finite is None and bits(well) == alone[0]
    assert bits(runner([None, FOREVER])[1]) == alone[1]


def test_another_pack_compiles_nothing(member):
    others = [lane(*overrides) for overrides in OTHERS]
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    runner = pack(*others, lane("seed=9", "+env.params.gravity=4.9"))
    for chunk in runner([FOREVER, None, Limits(1, 10, 50.0)]):
        if chunk is not None:
            jax.block_until_ready(chunk.state)
    assert compiled == []
    jax.jit(lambda x: x * 17.25)(jnp.ones(3))
    assert compiled, "this counter counts"


def test_the_first_update_is_that_of_the_run_alone(member):
    """Statistically the same is all that is promised; the first update differs by rounding only."""
    one, _ = member
    alone = make_runner(one.state, one.algorithm, one.env, one.keys, diagnose_every=1, **SIZES)
    alone.compile()
    first = Limits(1)
    expected, found = alone(one.state, first), pack(one._replace(diagnose_every=jnp.array(1)))([first])[0]
    for name, x in expected.rows.items():
        np.testing.assert_allclose(found.rows[name], x, rtol=2e-3, err_msg=name)
    for x, y in zip(jax.tree.leaves(expected.state), jax.tree.leaves(found.state), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-3)


def test_lanes_go_through_a_cpu_in_groups():
    """24 lanes as three times 8: in either group a run is the same, and lanes that stand still do not matter."""
    assert [lanes_at_once(n) for n in (4, 8, 12, 17, 24, 64, 512)] == [4, 8, 6, 17, 8, 8, 8]
    one, other = lane("seed=3"), lane("seed=0", "optimiser.learning_rate=0.1")
    runner = PackRunner([one] + [other] * 12 + [one], width=24, **SIZES)
    runner.compile()
    for _ in range(2):
        chunks = runner([FOREVER] + [Limits(2)] * 5 + [None] * 7 + [FOREVER])
        assert bits(chunks[0]) == bits(chunks[13]) != bits(chunks[1])


def test_more_runs_than_lanes_are_refused():
    with pytest.raises(ValueError, match="9 runs do not fit into 8 lanes"):
        PackRunner([lane()] * 9, width=WIDTH, **SIZES)


def test_runs_of_different_programs_are_refused():
    """Or all would silently be what the first one is."""
    with pytest.raises(ValueError, match="2 runs of a pack need 2 programs"):
        PackRunner([lane(), lane("whiten=true")], width=WIDTH, **SIZES)


def test_what_is_only_a_number_shares_a_program():
    """What the launcher puts into one pack must fit into it."""
    ours = ["estimator=lambda_return", "optimiser.clip_norm=1.0", "+env.params.gravity=9.8", "env.reward_threshold=5"]
    theirs = [
        ours[0],
        "optimiser.clip_norm=2.0",
        "+env.params.gravity=4.9",
        ours[3],
        "seed=8",
        "estimator.lam=0.8",
        "gamma=0.9",
    ]
    theirs += ["critic.optimiser.learning_rate=0.1", "entropy_coefficient=0.1"]
    shared, *others = (program(checked("+variant=baseline", *x)) for x in (ours, theirs, [*ours, "env.reward_threshold=6"]))
    assert [x == shared for x in others] == [True, False]
    PackRunner([lane(*ours), lane(*theirs)], width=WIDTH, **SIZES)


def test_the_largest_of_all_lanes():
    """One number for all: a loop that asks for it is not held back lane by lane."""
    x = jnp.array([3, 1, 4])
    assert [int(y) for y in jax.vmap(lambda x: largest(x) - x)(x)] == [1, 3, 0]
    assert int(largest(jnp.array(2))) == 2
    nested = jax.vmap(jax.vmap(lambda x: largest(x)))(jnp.array([[1, 5], [2, 3]]))
    assert nested.tolist() == [[5, 5], [5, 5]]
    [loop] = [eqn for eqn in jax.make_jaxpr(jax.vmap(_count))(x).eqns if eqn.primitive.name == "while"]
    assert loop.params["cond_jaxpr"].out_avals[0].shape == ()


def _count(x):
    return jax.lax.while_loop(lambda carry: largest(carry[1] > 0), lambda carry: (carry[0] + 1, carry[1] - 1), (0, x))


# Sweeps

SHORT = ("num_updates=40", "checkpoint_every=7", "updates_per_chunk=5", "episodes_per_update=4")
VMAP = ("hydra.launcher.executor=vmap", f"hydra.launcher.width={WIDTH}")
MEMBERS = ("+variant=baseline", "seed=0,1,2,3,4")


def sweep(*overrides, cwd, folder="s", **more):
    return pgx("-m", *overrides, *VMAP, f"hydra.sweep.dir={folder}", cwd=cwd, **more)


def same(folder, other):
    names = ("metrics.csv", "checkpoints/40/state/bytes/0")
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    done = sweep(*MEMBERS, *SHORT, cwd=root)
    assert done.returncode == 0, done.stderr
    return root / "s", done


def test_every_member_has_its_own_run_folder(whole):
    folder, done = whole
    assert done.stdout.splitlines()[-1] == "5 members: 5 completed; files in s"
    for seed in range(5):
        entry = folder / str(seed)
        names = {path.name for path in entry.iterdir()}
        assert {"metrics.csv", "timing.csv", "run.json", "learning_curve.png", "checkpoints", ".hydra", "run.log"} <= names
        found = summary(entry)
        assert (found["status"], found["executor"], found["width"], found["seed"]) == ("completed", "vmap", WIDTH, seed)
        assert f"seed={seed}\n" in (entry / ".hydra/overrides.yaml").read_text()
        assert len(rows(entry)) == 40


def test_other_companions_a_member_that_fails_and_one_that_diverges(whole, tmp_path):
    """The files of the others are the same, byte for byte; every reason is in the ledger."""
    (tmp_path / "s/1").mkdir(parents=True)
    with open(tmp_path / "s/1/.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        options = ("+variant=baseline", "seed=2,4", "optimiser.learning_rate=1e30,3e-3", *SHORT)
        done = sweep(*options, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    found = {row["member"]: row for row in ledger(tmp_path / "s")}
    assert [found[name]["status"] for name in "023"] == ["diverged", "diverged", "completed"]
    assert found["1"]["status"] == "waiting" and "another process is at work in" in done.stderr
    assert "another process is at work" in (tmp_path / "s/1/run.log").read_text()
    assert all("another process" not in (tmp_path / f"s/{i}/run.log").read_text() for i in (0, 2, 3))
    assert same(tmp_path / "s/3", whole[0] / "4")
    again = sweep(*options, cwd=tmp_path)  # what is missing
    assert again.returncode == 1 and [row["status"] for row in ledger(tmp_path / "s")] == ["diverged", "completed"] * 2
    assert same(tmp_path / "s/1", whole[0] / "2")


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(whole, tmp_path):
    dice = random.Random(int.from_bytes(os.urandom(4)))
    folder = tmp_path / "s"

    def recorded():
        return sum(path.stat().st_size for path in folder.glob("*/metrics.csv"))

    for way in ("parent SIGKILL", "parent SIGTERM", "worker SIGKILL"):
        process = start("-m", *MEMBERS, *SHORT, *VMAP, "hydra.sweep.dir=s", cwd=tmp_path)
        size, limit = recorded() + dice.randrange(1, 9_000), time.monotonic() + 60
        while recorded() < size and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        who, number = way.split()
        if process.poll() is None:
            for pid in [process.pid] if who == "parent" else children(process.pid):
                os.kill(pid, getattr(signal, number))
        done = finish(process)
        assert who == "parent" or done.returncode in (0, 1)
        time.sleep(0.3)
    done = pgx("-m", *MEMBERS, *SHORT, "hydra.sweep.dir=s", cwd=tmp_path)  # `auto` goes on as it was begun
    assert done.returncode == 0, done.stderr + done.stdout
    assert "last bits" not in done.stderr
    assert results(folder) == results(whole[0])


def test_under_another_executor_a_run_warns_that_its_bits_change(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "s")
    more = ("-m", "+variant=baseline", "seed=0", *SHORT, "num_updates=41", "hydra.sweep.dir=s")
    done = pgx(*more, "hydra.launcher.executor=map", cwd=tmp_path)
    assert done.returncode == 0 and len(rows(tmp_path / "s/0")) == 41
    assert "vmap of width 8 → map of width 1: the last bits" in done.stderr
    assert (summary(tmp_path / "s/0")["executor"], summary(tmp_path / "s/0")["width"]) == ("map", 1)


def test_several_devices_share_the_lanes(whole, tmp_path):
    """Here two that XLA makes of one CPU. Statistically the same; the first update differs by rounding only."""
    done = sweep(*MEMBERS, *SHORT[1:], "num_updates=2", cwd=tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert done.returncode == 0, done.stderr
    for seed in range(5):
        ours, theirs = rows(tmp_path / f"s/{seed}")[0], rows(whole[0] / str(seed))[0]
        assert ours.keys() == theirs.keys() and ours["env_steps"] == theirs["env_steps"]
        for name, x in ours.items():
            assert x == theirs[name] or float(x) == pytest.approx(float(theirs[name]), rel=2e-3), name


def test_what_is_given_to_the_workers(tmp_path, monkeypatch):
    """map where the environment is on the host; as it was begun; else as is asked for, in packs of one program."""

    def member(number, *overrides, before=None):
        config = checked("+variant=vanilla", f"seed={number}", *overrides)
        return Member(number, [], None, config, tmp_path, str(number), before)

    def given(*members, executor, width=2):
        found = [(x.executor, x.width, [m.number for m in x.members]) for x in batches(members, executor, width)]
        return sorted(found, key=str)

    plain = [member(i) for i in range(3)]
    alone = [("map", 1, [i]) for i in range(3)]
    assert given(*plain, executor="map") == given(*plain, executor="auto") == alone
    assert given(*plain, executor="vmap") == [("vmap", 2, [0, 1]), ("vmap", 2, [2])]
    assert given(*plain, executor="vmap", width=None) == [("vmap", 32, [0, 1, 2])]
    on_host = member(3, "env=gymnasium", "env.id=CartPole-v1")
    wider = member(4, "policy.width=8")
    assert given(on_host, wider, *plain[:1], executor="vmap") == [("map", 1, [3]), ("vmap", 2, [0]), ("vmap", 2, [4])]
    begun = member(5, before={"executor": "vmap", "width": 7}), member(6, before={"executor": "map", "width": 1})
    assert given(*begun, executor="auto") == [("map", 1, [6]), ("vmap", 7, [5])]
    assert given(*begun, executor="vmap") == [("vmap", 2, [5, 6])]
    monkeypatch.setattr("pgx.sweep.launch.accelerator", lambda: True)
    assert given(on_host, *begun, *plain, executor="auto", width=None) == [
        ("map", 1, [3]), ("map", 1, [6]), ("vmap", 1024, [0, 1, 2]), ("vmap", 7, [5])
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", ["executor=pmap", "width=0"])
def test_a_wrong_setting_is_one_line(wrong, tmp_path):
    done = pgx("-m", *MEMBERS, f"hydra.launcher.{wrong}", "hydra.sweep.dir=s", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("pgx: hydra.launcher.") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_512_members_in_one_program(tmp_path):
    tiny = ("num_updates=2", "episodes_per_update=2", "updates_per_chunk=2", "+env.params.max_steps_in_episode=32")
    members = ("+variant=baseline", "seed=range(0,512)", "hydra.launcher.executor=vmap", "hydra.launcher.width=512")
    done = finish(start("-m", *members, *tiny, "hydra.sweep.dir=s", cwd=tmp_path), timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "512 members: 512 completed; files in s"
    assert all(len(rows(tmp_path / f"s/{seed}")) == 2 for seed in range(512))
