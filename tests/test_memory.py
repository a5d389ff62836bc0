"""What a program takes is known before it is allocated: one line says how much, how much there is, and what would fit."""

import re
from types import SimpleNamespace

import jax
import pytest
from program import checked, rows, summary, train_here

from pgx import build, memory
from pgx.errors import ConfigError
from pgx.memory import Batch
from pgx.runners import batch_of
from pgx.sizes import most_episodes

RUN = ("+variant=reward_to_go", "env=catch", "num_updates=1", "updates_per_chunk=1")


@pytest.fixture
def free(monkeypatch):
    """Lets so many bytes be free."""
    return lambda size: monkeypatch.setattr(memory, "available", lambda: size)


def taken(runner) -> int:
    runner.compile()
    found = runner._program._program.compiled.memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


def runner_of(*overrides: str):
    parts = build.assemble(checked(*RUN, *overrides))
    return parts.runner


def number(pattern: str, error: pytest.ExceptionInfo) -> int:
    return int(re.search(pattern, str(error.value))[1].replace(",", ""))


def test_a_batch_that_does_not_fit_is_refused_before_it_is_played_and_the_line_says_what_fits(free, tmp_path):
    """It ended in a page of XLA's text on an accelerator, and on a CPU without a word: killed."""
    free(10**12)
    needed, observations = taken(runner_of("episodes_per_update=2000")), 1000 * 2000 * 50 * 4
    assert 2 * observations < needed < 2.5 * observations  # as they were played, and moved together: no third copy
    free(needed - 1)
    with pytest.raises(
        ConfigError, match=r"^episodes_per_update: 1,000 steps × 2,000 episodes take .* GB, .* GB are free"
    ) as error:
        train_here(*RUN, "episodes_per_update=2000", folder=tmp_path)
    assert summary(tmp_path)["status"] == "failed" and "episodes fit" in summary(tmp_path)["error"] and rows(tmp_path) == []
    fitting = number(r"; ([\d,]+) episodes fit$", error)
    assert 1800 <= fitting < 2000  # in two digits
    runner_of(f"episodes_per_update={fitting}").compile()


def test_the_key_is_that_of_the_largest_batch():
    def of(*overrides: str) -> Batch:
        config = checked(*RUN, *overrides)
        env, algorithm = build.build(config)
        state = build.skeleton(config, env, algorithm)
        return batch_of(state, env, most_episodes(config).episodes, build.evaluation(config))

    evaluated = ("episodes_per_update=2", "evaluate_every=1", "evaluate_episodes=3")
    assert of("episodes_per_update=7") == Batch("episodes_per_update", 7, 1000)
    assert of(*evaluated) == Batch("evaluate_episodes", 3, 1000)
    by_steps = ("episodes_per_update=null", "steps_per_update=5000", "max_episodes_per_update=15")
    assert of(*by_steps) == Batch("max_episodes_per_update", 15, 1000)


def test_a_pack_that_does_not_fit_is_refused_with_the_width_that_does(free):
    config = checked(*RUN, "episodes_per_update=500")
    env, algorithm = build.build(config)
    state, _ = build.initial_state(config, env, algorithm)
    runner = build.pack_runner(config, [build.lane(config, env, algorithm, state)], width=8)
    free(10**12)
    runner.compile()
    found = runner._program._program.memory_analysis()
    free(found.temp_size_in_bytes * 0.7)
    again = build.pack_runner(config, [build.lane(config, env, algorithm, state)], width=8)
    with pytest.raises(ConfigError, match=r"^hydra.launcher.width: 1,000 steps × 500 episodes × 8 lanes take .*; 5 lanes fit$"):
        again.compile()
    free(found.temp_size_in_bytes / 20)
    with pytest.raises(ConfigError, match=r"^episodes_per_update: .* 8 lanes take .*; 190 episodes fit in one lane$"):
        again.compile()


def test_a_batch_of_the_host_is_refused_before_it_is_made_and_before_it_is_learned_from(free):
    """ALE's pictures, ten episodes side by side, are 109 GB twice over."""
    free(10**6)
    cartpole = ("+variant=vanilla", "env=gymnasium_cartpole", "env.num_lanes=1", "num_updates=1")
    with pytest.raises(ConfigError, match=r"500 steps × 100 episodes × 4 numbers take .* twice over.*no more than 62 episodes"):
        build.assemble(checked(*cartpole, "episodes_per_update=100"))
    parts = build.assemble(checked(*cartpole, "episodes_per_update=60"))
    with pytest.raises(ConfigError, match=r"^episodes_per_update: 500 steps × 60 episodes take .* episodes fit$"):
        parts.runner(parts.state)


def test_steps_that_cannot_be_told_apart_are_refused_before_anything_is_compiled():
    with pytest.raises(
        ConfigError, match=r"^episodes_per_update: 1,000 steps × 1,000,000,000 episodes are .*; at most 1,073,741 episodes"
    ):
        build.assemble(checked(*RUN, "episodes_per_update=1e9"))


def test_not_even_one_episode(free):
    stats = SimpleNamespace(temp_size_in_bytes=10**9, output_size_in_bytes=0)
    free(10)
    with pytest.raises(ConfigError, match="take 1.0 GB, 0.0 MB are free; not even one episode fits$"):
        memory.check_program(Batch("episodes_per_update", 2, 10), SimpleNamespace(memory_analysis=lambda: stats))
    memory.check_program(Batch("episodes_per_update", 2, 10), SimpleNamespace(memory_analysis=lambda: None))


def test_an_accelerator_has_what_jax_was_given_of_it(monkeypatch):
    def device(stats):
        monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", memory_stats=lambda: stats)])

    device({"bytes_limit": 60, "bytes_in_use": 9, "peak_bytes_in_use": 50})
    assert memory.available() == 51
    device(None)
    assert memory.available() == float("inf")


@pytest.mark.parametrize("version", [1, 2])
def test_a_machine_has_what_the_control_groups_leave(version, tmp_path):
    """Of a container, or of a job of Slurm's: whichever group around the process is the tightest."""
    limit, usage = (("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current"))[version - 1]
    top = tmp_path / "memory" if version == 1 else tmp_path
    for folder, most in (("slurm/job", "800"), ("slurm", "max" if version == 2 else "9000")):
        (top / folder).mkdir(parents=True, exist_ok=True)
        (top / folder / limit).write_text(f"{most}\n")
        (top / folder / usage).write_text("500\n")
        (top / folder / "memory.stat").write_text("anon 400\ninactive_file 100\ntotal_inactive_file 100\n")
    process = tmp_path / "cgroup"
    process.write_text(("3:cpuset:/elsewhere\n4:memory:" if version == 1 else "0::") + "/slurm/job\n")
    tight, around = memory.Room(400, 800), memory.Room(8600, 9000)
    assert list(memory._groups(process, tmp_path)) == ([tight, around] if version == 1 else [tight])
    assert list(memory._groups(tmp_path / "none", tmp_path)) == []
    assert 0 < memory._machine().free <= memory._machine().whole


def test_workers_of_a_sweep_share_what_there_is(monkeypatch):
    """Two members that begin together would each see all of it."""
    monkeypatch.setattr(memory, "_machine", lambda: memory.Room(900, 1000))
    monkeypatch.setattr(memory, "_groups", list)
    assert memory.available() == 900
    monkeypatch.setattr(memory, "processes", 2)
    assert memory.available() == 500
    program = SimpleNamespace(memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=10**9, output_size_in_bytes=0))
    with pytest.raises(ConfigError, match="are free for each of 2 processes; not even one"):
        memory.check_program(Batch("episodes_per_update", 2, 10), program)
