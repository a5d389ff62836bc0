"""An environment as the learner sees it, for playing on with a frozen policy."""

from jaxtyping import Array, Float

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.scaling import Scaling


class SeenEnv(JittedEnv):
    """Observations as the policy looks at them, rewards times `reward_scale`: what `Episodes.seen` is to episodes."""

    env: JittedEnv
    scaling: Scaling | None
    reward_scale: float | Float[Array, ""]

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    @property
    def differentiable(self) -> bool:
        return self.env.differentiable

    def reset(self, key):
        env_state, obs = self.env.reset(key)
        return env_state, self._seen(obs)

    def step(self, key, state, action):
        env_state, obs, reward, terminated = self.env.step(key, state, action)
        return env_state, self._seen(obs), reward * self.reward_scale, terminated

    def _seen(self, obs: Float[Array, " O"]) -> Float[Array, " O"]:
        return obs if self.scaling is None else self.scaling(obs)
