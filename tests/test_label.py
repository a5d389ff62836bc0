"""A run is called by what it is: a variant whose parts were exchanged is another one, on screen and in reports."""

import json

import pytest
from program import checked, composed, pgx, summary

from pgx.config import CONF, options
from pgx.label import label
from pgx.runs.record import new_summary
from pgx.sweep import ledger
from pgx.sweep.index import Index


@pytest.mark.parametrize(
    ("overrides", "called"),
    [
        *((f"+variant={variant}", variant) for variant in options("variant")),
        ("+variant=baseline estimator=vanilla", "baseline (estimator=vanilla)"),
        ("+variant=baseline critic=none estimator=vanilla", "baseline (estimator=vanilla critic=none)"),
        ("+variant=baseline estimator=reward_to_go", "baseline"),  # which it has
        ("+variant=baseline optimiser=sgd policy.width=8 estimator.gamma=0.5", "baseline"),  # settings, no parts
        ("+variant=gae critic=leave_one_out", "gae (critic=leave_one_out)"),
    ],
)
def test_the_label_says_which_parts_are_not_the_variants(overrides, called):
    """`+variant=baseline estimator=vanilla` trained Ψ = R(τ) and was called baseline everywhere."""
    with composed(*overrides.split()) as config:
        assert label(config.hydra) == called


def test_a_studys_own_variants_have_labels_too():
    """Also those that build on another one, and that choose other things than estimator and critic."""
    study = f"hydra.searchpath=[file://{CONF.parent}/experiments/published_collapse/conf]"
    for overrides, called in {
        "+variant=corrected": "corrected",
        "+variant=published_2": "published_2",
        "+variant=corrected update=minibatches": "corrected (update=minibatches)",
        "+variant=published_2 optimiser@critic.optimiser=sgd": "published_2 (optimiser@critic.optimiser=sgd)",
        "+variant=published_1 estimator=vanilla": "published_1 (estimator=vanilla)",
    }.items():
        with composed(study, *overrides.split()) as config:
            assert label(config.hydra) == called


def test_a_sweeps_table_says_which_parts_were_exchanged(tmp_path):
    """Also where a configuration file did it, and no override of the member says so."""
    for name, called in (("0", "baseline"), ("1", "baseline (estimator=vanilla)")):
        (tmp_path / name).mkdir()
        config = checked("+variant=baseline", f"seed={name}")
        (tmp_path / name / "run.json").write_text(json.dumps(new_summary(config, None, label=called)))
    rows = ledger.read(Index(tmp_path))
    assert [row["label"] for row in rows] == ["baseline", "baseline (estimator=vanilla)"]
    assert "(estimator=vanilla)" in ledger.table(rows).splitlines()[2] and "(" not in ledger.table(rows).splitlines()[1]


def test_screen_run_json_and_the_tracker_are_told_the_label(tmp_path):
    """One run through the whole program; `variant` stays what was chosen."""
    done = pgx("+variant=baseline", "estimator=vanilla", "env=catch", "num_updates=1", "episodes_per_update=2",
               "hydra.run.dir=r", cwd=tmp_path)  # fmt: skip
    assert done.stdout.startswith("baseline (estimator=vanilla) on Catch-bsuite, seed 0: "), done.stderr
    found = summary(tmp_path / "r")
    assert (found["variant"], found["label"]) == ("baseline", "baseline (estimator=vanilla)")
