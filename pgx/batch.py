"""Batches by steps: how many episodes the next batch has, so that it has about so many steps.

The number is decided before the batch begins, from the lengths of the last one, and all its episodes are played to their
ends. So, given all that was before, they are independent draws, and their mean gradient is unbiased. A batch that ended
when enough steps were in would have more of the episodes that are short.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pgx.types import Episodes


class BySteps(eqx.Module):
    """B = steps / mean length of the last batch's episodes, rounded to a multiple, within limits.

    Of the last batch alone: the steps of a batch vary with the lengths of its own episodes anyway, and those of the one
    before it add no more to that than as much again.
    """

    steps: int = eqx.field(static=True)
    least: int = eqx.field(static=True)
    """Episodes, of which the critic may need more than one."""
    most: int = eqx.field(static=True)
    """Episodes: so many have room in memory."""
    multiple: int = eqx.field(static=True, default=1)
    """Of so many episodes: whole groups. It divides both limits."""

    def first(self, max_steps: int) -> Int[Array, ""]:
        """Of the first batch, as if its episodes went to the time limit: too few steps are mended by the second."""
        return self._of_length(jnp.array(max_steps, jnp.float32))

    def after(self, episodes: Episodes) -> Int[Array, ""]:
        """Of the batch that follows these."""
        return self._of_length(episodes.length.mean(where=episodes.played))

    def _of_length(self, mean_length: Float[Array, ""]) -> Int[Array, ""]:
        whole = jnp.round(self.steps / (mean_length * self.multiple)) * self.multiple
        return jnp.clip(whole, self.least, self.most).astype(jnp.int32)
