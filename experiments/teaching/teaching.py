# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Three ways to weigh the same actions
#
# The gradient of the expected return $J$ of a policy $\pi$ is an average over episodes:
#
# $$\nabla J \;\approx\; \frac{1}{B}\sum_{b}\sum_{t}\nabla\log\pi(a_t|s_t)\,\bigl(\Psi_t-b(s_t)\bigr)$$
#
# $\nabla\log\pi(a_t|s_t)$ says which way to push the parameters to make the action that was taken more probable; the
# number behind it says how hard. Three choices of that number, all with the same expectation (at $\gamma = 1$):
#
# | variant | $\Psi_t$ | $b(s_t)$ |
# |---|---|---|
# | vanilla | $R(\tau)=\sum_t r_t$, of the whole episode | 0 |
# | reward_to_go | $G_t=\sum_{k\ge t} r_k$, from here on | 0 |
# | baseline | $G_t$ | $V(s_t)$, what was to be expected from here |
#
# Below are pgx's own functions, on CartPole: a reward of 1 a step, until the pole falls.

# %% tags=["parameters"]
EPISODES = 512  # to measure with; as many more to fit V on

# %%
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from analysis.report import plots
from analysis.report.notebook import Html, Markdown, Picture
from pgx.blocks import to_blocks
from pgx.critics import ValueNetwork
from pgx.envs.gymnax import GymnaxEnv
from pgx.estimators import reward_to_go, vanilla
from pgx.losses import policy_loss
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.rollout import rollout
from pgx.types import Steps

env = GymnaxEnv("CartPole-v1")
policy_key, critic_key, fit_key, play_key = jax.random.split(jax.random.key(0), 4)
policy = MLPPolicy(4, env.spec.actions, width=32, depth=2, activation="relu", key=policy_key)
play = eqx.filter_jit(lambda key: rollout(env, policy, key, EPISODES))
episodes, others = play(play_key), play(fit_key)
T = int(jnp.maximum(episodes.length.max(), others.length.max()))

# %% [markdown]
# ## V(s): what is to be expected
# A value network, fitted to the returns of *other* episodes. Fitted to these very ones it would know their luck, and
# the gradient would be biased.

# %%
critic = ValueNetwork(Optimiser("adam", 1e-2), passes=1, minibatch_steps=None, width=32, depth=2, activation="relu")
of_each = lambda f, x: jax.vmap(f, in_axes=(1, 1, 1, 0), out_axes=1)(
    x.reward, jnp.zeros_like(x.reward), x.mask, jnp.zeros(EPISODES)
)
togo = partial(reward_to_go, gamma=1.0)


@eqx.filter_jit
def fit(state):
    returns = of_each(togo, others)
    steps = to_blocks(Steps(others.obs, others.action, returns, returns, returns), others.mask)

    def step(state, _):
        return critic.fit(state, steps, fit_key)

    return jax.lax.scan(step, state, length=300)


(value_network, _), losses = fit(critic.init(4, critic_key))
G = of_each(togo, episodes)[:T]
R = of_each(partial(vanilla, gamma=1.0), episodes)[:T]
V = jax.vmap(jax.vmap(value_network))(episodes.obs[:T])
mask = episodes.mask[:T]
weights = {"vanilla": R, "reward_to_go": G, "baseline": G - V}
weights = {name: jnp.where(mask, weight, 0.0) for name, weight in weights.items()}
explained = critic.explained_variance(G, V, mask)
Markdown(
    f"Squared error of V: {losses[0]:.0f} → {losses[-1]:.0f}. In fresh episodes it explains {explained:.0%} of "
    "the variance of G."
)

# %% [markdown]
# ## One episode, three weights
# The longest of the first ten. Vanilla praises every action for the whole return, also for what came before it;
# reward-to-go counts what followed; and minus $V$ only what followed beyond expectation, which can be negative.

# %%
longest = int(episodes.length[:10].argmax())
steps = np.arange(int(episodes.length[longest]))
looks = plots.looks_of(list(weights))
figure, (ax,) = plots.canvas(height=3.6)
lines = [
    ax.plot(steps, weight[: len(steps), longest], color=looks[name].colour, linewidth=2.2, label=name)[0]
    for name, weight in weights.items()
]
ax.axhline(0, color=plots.GREY, linewidth=0.8, linestyle=":")
ax.set(xlabel="step t", ylabel="Ψ − b")
plots.headline(ax, "What the action at step t is weighed with", lines)
Picture.of(figure, "Weights of one episode: constant for vanilla, falling to 1 for reward to go, around 0 for baseline")

# %% [markdown]
# ## Why the variance falls
# The gradient of every episode alone, at the same policy, with each of the three weights. Their means estimate the same
# gradient. Their spread is the noise of a step: tr Σ, the variances of all parameters added up.
#
# - From vanilla to reward-to-go: what happened before $t$ does not depend on $a_t$, so it adds nothing to the
#   expectation, only noise. (That the noise falls is usual, not a theorem.)
# - From reward-to-go to baseline: whether an episode is in a good state is no merit of the action either. $V(s_t)$
#   takes that away; it does not depend on $a_t$, so the expectation stays.


# %%
@jax.jit
def gradients(advantage):
    """One row an episode: the gradient of J, flat."""

    def of_episode(obs, action, advantage):
        loss = lambda policy: policy_loss(policy(obs.T).log_prob(action), advantage)
        return -jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(loss)(policy))])

    return jax.vmap(of_episode, in_axes=1)(episodes.obs[:T], episodes.action[:T], advantage)


g = {name: np.asarray(gradients(weight), np.float64) for name, weight in weights.items()}
cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
rows = []
for name, each in g.items():
    mean, variance = each.mean(0), each.var(0, ddof=1).sum()
    squared = mean @ mean - variance / EPISODES  # unbiased
    alike = cosine(mean, g["baseline"].mean(0))
    rows.append([name, f"{variance:,.0f}", f"{squared:,.0f}", f"{squared / variance:.3f}", f"{alike:.3f}"])
table = pd.DataFrame(rows, columns=["variant", "tr Σ", "‖G‖² (unbiased)", "signal / noise", "cosine to baseline's"])
Html(table.to_html(index=False, border=0))

# %% [markdown]
# ## What that buys
# How well two independent batches agree on the direction (1: perfectly), against the episodes in a batch. Less variance
# is the same as more episodes.

# %%
sizes = [2**i for i in range(1, 9) if 2**i <= EPISODES // 8]
agreement = []
for name, each in g.items():
    for size in sizes:
        means = each[: len(each) // size * size].reshape(-1, size, each.shape[1]).mean(1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        k = len(means)
        pairs = (means @ means.T)[np.triu_indices(k, 1)].mean()
        agreement.append({"variant": name, "batch_size": size, "estimate": pairs, "lo": np.nan, "hi": np.nan,
                          "level": np.nan, "method": "mean over all pairs of disjoint batches", "n_runs": 1,
                          "n_boot": 0, "warning": ""})  # fmt: skip
figure, (ax,) = plots.canvas(height=4)
plots.against_batch_size(pd.DataFrame(agreement), ax, looks=looks, title="Do two batches agree?", label="cosine")
Picture.of(figure, "Cosine between batches against batch size: baseline above reward to go above vanilla")

# %% [markdown]
# One policy, untrained, on one task: at another one the order can differ, and a better gradient need not mean a better
# policy. Whether training gains by it is what `python -m analysis.report` answers, over seeds.
