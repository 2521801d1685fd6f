"""The median of ratios and its 95 % interval from order statistics, as contest.cpp computes them."""


def median_interval(values):
    """(median, low, high); with fewer than six values the interval is all of them."""
    values = sorted(values)
    n = len(values)
    chance = total = 0.5 ** n
    k = 0
    while total <= 0.025 and k < n // 2:
        k += 1
        chance *= (n - k + 1) / k
        total += chance
    low = max(k - 1, 0)
    middle = values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2
    return middle, values[low], values[n - 1 - low]
