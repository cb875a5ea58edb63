"""What is believed of incrementals where estimates are off: one night's errors change neither levels nor fulls.

Here live pure functions: the saturation of a unit, smoothed over nights, and the bytes of a rung of its ladder, of what
its rate of change tells and of tonight's estimate, each by how sure it is. Exact estimates never come here.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Sequence

from backupcore.schedule.levels import GRID, curve

UNKNOWN = -1.0
SURE = 1e-5  # estimates with less variance of error than this are taken as they are
_CURVES = [curve(grid) for grid in range(len(GRID))]
_LONG = len(_CURVES[0]) - 1
_NEW = 0.15  # weight of a night's saturation, at an age that tells it well
_TELLS = 10  # such an age
_MISFIT = 0.0025  # variance of what the rate of change tells of an incremental
_FAR = 9.0  # variances off: no error of an estimate, something happened


def changed(place: float, age: float) -> float:
    """What changed within an age, in units of a night's change; place: of the saturation, between those of GRID."""
    age = min(age, float(_LONG))
    low = min(int(place), len(GRID) - 2)
    part, whole = place - low, int(age)
    here, there = _CURVES[low], _CURVES[low + 1]
    found = here[whole] + part * (there[whole] - here[whole])
    if whole < age:
        after = here[whole + 1] + part * (there[whole + 1] - here[whole + 1])
        found += (age - whole) * (after - found)
    return found


def aged(week: Sequence[float], weekday: int, age: int) -> float:
    """The age of a base in nights of usual change."""
    weeks, rest = divmod(age, 7)
    return 7.0 * weeks + sum(week[(weekday - k) % 7] for k in range(rest))


def saturate(place: float, rate: float, size: float, age: float, estimate: float) -> float:
    """The place of the saturation after a night's estimate of the incremental on the oldest base."""
    if age < 4 or rate <= 0 or estimate <= 0:
        return place
    values = [-one[min(_LONG, int(age))] for one in _CURVES]
    wanted = -estimate / rate
    high = bisect_left(values, wanted)
    if high == 0:
        found = 0.0
    elif high == len(values):
        found = float(high - 1)
    else:
        found = high - 1 + (wanted - values[high - 1]) / (values[high] - values[high - 1])
    if place < 0:
        place = min(len(GRID) - 1.0, max(0.0, usual(rate, size)))
    return place + _NEW * min(1.0, age / _TELLS) * (found - place)


def usual(rate: float, size: float) -> float:
    """The place of the saturation where nothing else tells."""
    share = rate / size if size > 0 else 0.0
    high = bisect_left(GRID, share)
    if high == 0:
        return 0.0
    if high == len(GRID):
        return high - 1.0
    return high - 1 + (share - GRID[high - 1]) / (GRID[high] - GRID[high - 1])


def rung(told: float, estimate: float, error: float) -> float:
    """Bytes of an incremental, of what the rate tells and tonight's estimate."""
    off = estimate - told
    if told <= 0 or off * off > _FAR * (error + _MISFIT) * told * told:
        return estimate
    return told + off * _MISFIT / (error + _MISFIT)


def doubt(error: float) -> float:
    """Variance of what rung() gives, relative."""
    return error * _MISFIT / (error + _MISFIT)
