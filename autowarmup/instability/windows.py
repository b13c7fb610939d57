"""The last values of a series, kept in order of size."""

from __future__ import annotations

from bisect import bisect_left, insort


class SortedWindow:
    """The last values of a series, in order of arrival and in order of size. Its median, its extremes and its median
    absolute deviation are read off without a sort.

    Args:
        length: how many values it has at most; a further one takes the place of the oldest.

    Attributes:
        values: in order of arrival. None is NaN.
        ordered: the same in ascending order.

    Example:
        >>> window = SortedWindow(3)
        >>> for value in (5.0, 1.0, 9.0, 2.0):
        ...     window.add(value)
        >>> window.values, window.ordered, window.median, window.deviation
        ([1.0, 9.0, 2.0], [1.0, 2.0, 9.0], 2.0, 1.0)
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.values: list[float] = []
        self.ordered: list[float] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        """Takes in one value."""
        values, ordered = self.values, self.ordered
        if len(values) == self.length:
            del ordered[bisect_left(ordered, values.pop(0))]
        values.append(value)
        insort(ordered, value)

    @property
    def median(self) -> float:
        """The middle value; of an even number of values the upper of the two in the middle."""
        return self.ordered[len(self.ordered) // 2]

    @property
    def deviation(self) -> float:
        """The median absolute deviation: the median of the distances to the median."""
        ordered = self.ordered
        half = len(ordered) // 2
        middle = ordered[half]
        # The half that is nearest to the middle stands together in ``ordered``: where does it begin? The further right
        # that is, the nearer is its first value and the further its last one.
        first, last = 0, len(ordered) - 1 - half
        while first < last:
            start = (first + last) // 2
            if middle - ordered[start] > ordered[start + half] - middle:
                first = start + 1
            else:
                last = start
        distance = max(middle - ordered[first], ordered[first + half] - middle)
        return min(distance, middle - ordered[first - 1]) if first else distance
