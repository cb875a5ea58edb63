"""The dynamic programme of levels against trying everything."""

import itertools

import pytest

from backupcore.schedule import levels


def _cheapest(grid, ladder, nights):
    """Cost of each first rung, by trying all that may follow."""
    v = levels.curve(grid)

    def rest(now, left):
        if not left:
            return 0.0
        return min(v[now[rung][1]] + rest(levels.climb(now, rung), left - 1) for rung in range(len(now)))

    return [v[ladder[rung][1]] + rest(levels.climb(ladder, rung), nights - 1) for rung in range(len(ladder))]


LADDERS = [
    ((1, 1),),
    ((2, 1),),
    ((3, 4),),
    ((2, 5), (1, 2)),
    ((3, 9), (2, 5), (1, 1)),
    ((4, 6), (3, 3), (2, 2), (1, 1)),
    ((5, 12), (2, 1)),
    ((9, 3), (8, 1)),
]


@pytest.mark.parametrize("ladder, nights, grid", list(itertools.product(LADDERS, range(1, 8), (0, 3, 6, 9))))
def test_costs_are_those_of_trying_everything(ladder, nights, grid):
    assert levels.costs(grid, ladder, nights) == pytest.approx(_cheapest(grid, ladder, nights))


@pytest.mark.parametrize("ladder, nights, grid", list(itertools.product(LADDERS, range(1, 8), (0, 3, 9))))
def test_the_path_takes_what_the_best_rung_promises(ladder, nights, grid):
    path = levels.path(grid, ladder, nights)
    assert len(path) == nights
    assert sum(path) == pytest.approx(min(_cheapest(grid, ladder, nights)))
    assert path[0] == levels.curve(grid)[ladder[levels.best(grid, ladder, nights)][1]]


def test_two_nights_with_one_level_are_summed():
    assert levels.costs(0, ((1, 1),), 3) == (1 + 2 + 3,)


def test_of_equal_rungs_the_lowest_is_taken():
    assert levels.best(9, ((1, 1),) * 1, 5) == 0  # all changes every night: each level costs the same
    assert levels.best(9, ((3, 4), (1, 1)), 2) == 0


def test_levels_deeper_each_night_when_there_are_enough():
    ladder, out = ((9, 1),), []
    for left in range(6, 0, -1):
        rung = levels.best(2, ladder, left)
        out.append(rung)
        ladder = levels.climb(ladder, rung)
    assert out == [0, 1, 2, 3, 4, 5]


def test_saturation_is_read_from_two_ages():
    for grid in range(len(levels.GRID)):
        v = levels.curve(grid)
        assert levels.saturation((12, 1), (v[12] * 5, v[1] * 5), 0) == grid
    assert levels.saturation((2, 1), (2, 1), 4) == 4
    assert levels.saturation((12, 1), (0.0, 0.0), 4) == 4


def test_an_outlook_has_a_night_each_and_comes_to_the_full():
    told = levels.outlook(0, ((3, 2), (2, 1)), 3, 4, 7, 20)
    assert len(told) == 20
    assert told[4] == told[11] == 1.0
    assert told[5:11] == levels.cycle_path(0, 3, 7)
