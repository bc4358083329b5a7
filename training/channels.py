"""Which gated channels a training keeps, by what they cost and how often they open."""

import itertools

import numpy as np

#: A bias of an attention value that no input can outweigh.
FOR_GOOD = 1000.0


def chosen(costs, keep, ranks):
    """The channels of each module that are kept.

    Args:
        costs: For each module what each of its channels costs, arrays (C,).
        keep: Share of all costs that may be kept; at least one channel a module is.
        ranks: Of all channels, module by module, (sum of C,): the highest are kept.

    Returns:
        For each module bool, (C,).
    """
    starts = np.cumsum([0, *map(len, costs)])
    costs, ranks = np.concatenate(costs), np.array(ranks, float)
    for first, last in itertools.pairwise(starts):
        ranks[first + np.argmax(ranks[first:last])] = np.inf
    order = np.argsort(-ranks, kind="stable")
    kept = np.zeros(costs.size, bool)
    kept[order] = np.cumsum(costs[order]) <= keep * costs.sum()
    kept[np.isinf(ranks)] = True
    return np.split(kept, starts[1:-1])


def ranks_of_gates(opened, attention):
    """Ranks by the share of images that each channel is open for, then by its mean attention."""
    ranks = np.empty(opened.size)
    ranks[np.lexsort((attention, opened))] = np.arange(opened.size)
    return ranks


def ranks_of_chance(seed, count):
    """Random ranks."""
    return np.random.default_rng(seed).permutation(count)


def biases(kept):
    """Of the attention of one module, (C,): what is kept is open for good, all else closed."""
    return np.where(kept, FOR_GOOD, -FOR_GOOD).astype(np.float32)
