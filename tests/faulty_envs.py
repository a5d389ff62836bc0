"""Gymnasium environments that go wrong, for tests: `env=gymnasium env.id=faulty_envs:Nan-v0`."""

import ctypes
import os
from pathlib import Path

import gymnasium
import numpy as np

EPISODE = 8


def fall() -> None:
    raise ZeroDivisionError("the pole fell off\nthe cart")


def leave() -> None:
    raise SystemExit(3)


def complain() -> None:
    raise ValueError("too much " * 10_000)


def hang() -> None:
    """As C code does that waits for what never comes: Python's signal handlers have no turn."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


FAULTS = {"pole": fall, "exit": leave, "long": complain, "hang": hang}


class Faulty(gymnasium.Env):
    """Episodes of 8 steps, the reward is the action. From the fifth update on: observations that are not a
    number, or `fault` while the file $PGX_TEST_FAULT exists."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, nan: bool = False, fault: str = "pole"):
        self._nan, self._fault, self._resets = nan, fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._resets += seed is not None  # the others are Gymnasium's own, after an episode's end
        return self._obs(), {}

    def step(self, action):
        if not self._nan and self._resets >= 5 and Path(os.environ.get("PGX_TEST_FAULT", "/nowhere")).exists():
            FAULTS[self._fault]()
        return self._obs(), float(action), False, False, {}

    def _obs(self):
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs * np.nan if self._nan and self._resets >= 5 else obs


gymnasium.register("Faulty-v0", Faulty, max_episode_steps=EPISODE)
gymnasium.register("Nan-v0", Faulty, max_episode_steps=EPISODE, kwargs={"nan": True})
for name in ("exit", "long", "hang"):
    gymnasium.register(f"{name.title()}-v0", Faulty, max_episode_steps=EPISODE, kwargs={"fault": name})
