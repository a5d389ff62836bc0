"""Seeds before the runs: the command, both ways round, and what it refuses."""

import numpy as np
import pytest

from analysis import power as module
from analysis.power import main, power, probability_for, seeds_for, shift_of
from analysis.statistics.compare import needed_p


def test_more_seeds_and_larger_effects_have_more_power():
    found = [power(0.8, n, sweeps=100) for n in (4, 5, 15, 30)]
    assert found[0] == 0 and found == sorted(found) and found[-1] > 0.9  # no claim below 5 seeds
    assert power(0.99, 5, needed=2 / 252, sweeps=100) > 0.2  # the smallest p of five seeds, exactly
    assert power(0.95, 10, sweeps=100) > power(0.7, 10, sweeps=100)
    assert power(0.8, 10, needed_p(10), sweeps=100) < power(0.8, 10, sweeps=100)
    assert power(0.5, 10, sweeps=200) < 0.06


def test_both_ways_round():
    n = seeds_for(0.85, 0.8, sweeps=100)
    assert 7 <= n <= 13 and power(0.85, int(n), sweeps=100) >= 0.8
    assert abs(probability_for(int(n), 0.8, sweeps=100) - 0.85) <= 0.02
    assert seeds_for(0.51, sweeps=20) == np.inf or seeds_for(0.51, sweeps=20) > 400
    assert np.isnan(probability_for(5, 0.9, needed_p(6) / 10, sweeps=20))


def test_the_p_that_is_needed():
    assert needed_p(1) == pytest.approx(0.05) and needed_p(10) == pytest.approx(0.005)
    assert needed_p(3, method="by") == pytest.approx(0.05 / 3 / (1 + 1 / 2 + 1 / 3))


def test_the_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "seeds_for", lambda *_: 22.0)
    monkeypatch.setattr(module, "power", lambda *_: 0.54)
    monkeypatch.setattr(module, "probability_for", lambda *_: 0.88)
    said = {
        "--probability 0.75": "about 22 seeds each, to find P(improvement) = 0.75 (0.95 standard deviations) with 80% power; "
        "1 comparison at α = 0.05",
        "--difference 1.2 --seeds 10": "54% power: 10 seeds each, to find P(improvement) = 0.80 (1.2 standard deviations)",
        "--seeds 10 --comparisons 3": "10 seeds each find P(improvement) = 0.88 (1.7 standard deviations) with 80% power; "
        "3 comparisons at α = 0.05 (p ≤ 0.017",
        "--seeds 5 --comparisons 10": "5 seeds each decide nothing with 10 comparisons at α = 0.05 (p ≤ 0.005 for the first of "
        "them): at least 6 are needed",
    }
    for arguments, expected in said.items():
        assert main(arguments.split()) == 0 and capsys.readouterr().out.startswith(expected)
    assert main([]) == 2 and "what is to be found?" in capsys.readouterr().err
    for wrong in ("--probability 0.5", "--probability x", "--seeds 0", "--power 1", "--probability 0.7 --difference 1"):
        with pytest.raises(SystemExit) as stop:
            main(wrong.split())
        assert stop.value.code == 2
    assert shift_of(0.5) == 0
