"""Curves on one grid, and nothing made up outside of what was measured."""

import numpy as np
import pytest
from run_folders import made_curves

from analysis.align import SCORES, align, area, grid, interpolate, matrix, relative_to, score_when, with_all
from analysis.load import CURVES, InputError

NAN = np.nan
T, Y = np.array([10, 20, 40]), np.array([1.0, 3.0, 7.0])


def test_between_two_points_the_earlier_one_holds():
    np.testing.assert_array_equal(interpolate(np.array([9, 10, 15, 20, 30, 40, 41]), T, Y), [NAN, 1, 1, 3, 3, 7, NAN])


def test_nan_stays_where_it_is():
    y = np.array([1.0, NAN, 7.0])
    np.testing.assert_array_equal(interpolate(T, T, y), y)
    assert np.isnan(interpolate(np.array([30]), T, y)).all()


def test_unequal_lengths_and_late_starts():
    curves = made_curves({"a/0": [1, 2, 3, 4, 5], "a/1": [1, 2]})
    curves = curves[~((curves["run_id"] == "a/0") & (curves["env_steps"] < 2000))]  # starts later
    assert grid(curves, 4).tolist() == [2000, 3000, 4000, 5000]  # where the last has started … where the last ends
    assert grid(curves, 3, stop=4000).tolist() == [2000, 3000, 4000]
    np.testing.assert_array_equal(matrix(align(curves, grid(curves, 4))), [[2, 3, 4, 5], [2, NAN, NAN, NAN]])
    with pytest.raises(InputError, match="no env steps between 2,000.* and 1,500"):
        grid(curves, stop=1500)
    with pytest.raises(InputError, match="no curves"):
        grid(curves.iloc[:0])


def test_align_keeps_rows_in_order_whatever_the_order_of_the_input():
    curves = made_curves({"b/1": [1, 2, 3], "a/0": [4, 5, 6]})
    shuffled = align(curves.sample(frac=1, random_state=0).sort_values("run_id", ascending=False), grid(curves, 3))
    assert shuffled.equals(align(curves, grid(curves, 3)))
    assert shuffled.dtypes.equals(curves[list(CURVES)].dtypes)
    assert align(curves.iloc[:0], np.array([1])).empty


def test_the_area_is_that_of_trapezia():
    curves = made_curves({"a/0": [1, 3, 5], "a/1": [2, 2]})
    # ½ (1 + 3) · 1000 + ½ (3 + 4) · 500 over 1500 steps
    np.testing.assert_allclose(area(curves, 2500)["value"], [(2000 + 1750) / 1500, NAN])
    assert area(curves.iloc[:0], 1).empty


def test_runs_without_a_score_are_counted():
    runs = made_curves({"a/0": [1], "a/1": [1]})
    scores = score_when(made_curves({"a/1": [4]}), 1000)
    np.testing.assert_array_equal(with_all(scores, runs)["value"], [NAN, 4])
    assert tuple(with_all(scores, runs)) == SCORES


def test_a_score_when_is_that_of_the_first_update_that_reached_so_many_steps():
    curves = made_curves({"a/0": [1, 3, 5], "a/1": [2, 7]})
    for backwards in (curves, curves.iloc[::-1]):
        assert score_when(backwards, 2000).set_index("run_id")["value"].to_dict() == {"a/0": 3, "a/1": 7}
    np.testing.assert_array_equal(score_when(curves, 2001)["value"], [5, NAN])


def test_steps_are_counted_from_an_origin_for_the_runs_that_have_one():
    moved = relative_to(made_curves({"a/0": [1, 3, 5], "a/1": [2, 7]}), {"a/0": 2000.0})
    assert moved["env_steps"].tolist() == [-1000, 0, 1000] and moved["value"].tolist() == [1, 3, 5]
