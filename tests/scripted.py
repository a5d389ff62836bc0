"""An environment on the host whose episodes are written down beforehand."""

import numpy as np
from mdp import (
    ACTIONS,
)

from pgx.envs.base import EnvSpec, HostEnv
from pgx.spaces import Discrete


class Scripted(HostEnv):
    """Lane b ends after `length[b]` steps as the script says; then it begins again, as Gymnasium's do."""

    length, terminates = np.array([1, 3, 5, 5, 2]), np.array([True, False, True, False, True])
    spec, num_lanes = EnvSpec("Scripted-v0", 3, Discrete(ACTIONS), 5, None), 5

    def reset(self, seed):
        self.t, self.taken, self.seed = 0, [], seed
        return self._obs()

    def _obs(self):
        return np.stack([np.full(5, self.t), np.arange(5), np.ones(5)], 1).astype(np.float32)

    def step(self, action):
        self.t += 1
        self.taken.append(action.copy())
        over = self.t % self.length == 0
        return self._obs(), self.t + 10.0 * np.arange(5), over & self.terminates, over & ~self.terminates
