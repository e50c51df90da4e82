r"""What `latex_reader` computes by itself: sums over the nodes of an integral or over the values of a law, derivatives.

An integral over z is a sum over nodes, which the situation declares under ``"dz"``: a pair of an array of nodes and an
array of weights. `grid` makes such pairs. Nodes of shape (n,) are numbers; the rows of nodes of shape (n, m) become
columns, whose entries can be printed as ``z_j``, too.
"""

import itertools

import numpy as np
from latex_arithmetic import added, entry, number, operand, product, resolved, scalar, whole_number
from latex_names import SLOT, key_of

PROBABILITY = 1e-6  # how far from 1 a law may sum up before it is refused
NEVER = 1e-16  # what has a smaller probability is left out


def grid(low, high, n=41, dimension=None):
    """Nodes and weights on an interval, or with a dimension on a box, for what vanishes smoothly before the ends.

    Equal steps with equal weights. For a Gaussian they are exact to 1e-15 if the ends are 8 standard deviations away
    and a step is at most 0.7 of them: 41 nodes serve standard deviations from 1 to 2/3, a narrower one needs more.
    """
    line = np.linspace(low, high, n)
    step = (high - low) / (n - 1)
    if dimension is None:
        return line, np.full(n, step)
    points = np.array(list(itertools.product(line, repeat=dimension)))
    return points, np.full(len(points), step**dimension)


def interval(low, high, n=60):
    """Nodes and weights of Gauss and Legendre between two ends, one of which may be infinite."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    if low == np.inf or high == -np.inf:
        raise ValueError(f"an integral from {low} to {high}: its ends stand in the wrong order")
    if np.isinf(low) or np.isinf(high):  # t of [0, 1] becomes the distance t / (1 - t) from the other end
        near, weights = interval(0, 1, 2 * n)
        away = near / (1 - near)
        return (low + away if np.isinf(high) else high - away), weights / (1 - near) ** 2
    return (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights


# --- what is drawn ---


def with_value(names, letter, value, index=None):
    r"""The values, with another value of z, or of the entry z_j if an index is given.

    What changes under one spelling changes under the others: a column z has the entries z_j, and z_j is an entry of z.
    """
    family = f"{letter}_{{{SLOT}}}"
    if index is None:
        changed = {letter: value}
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 1:
            changed[family] = list(value[:, 0])
        return names | changed
    whole = names.get(letter)
    is_column = isinstance(whole, np.ndarray) and whole.shape[1:] == (1,)
    old = names.get(family, whole[:, 0] if is_column else {})
    changed = {family: {**(old if isinstance(old, dict) else dict(enumerate(old, 1))), index: value}}
    if is_column and index <= len(whole) and np.ndim(value) == 0:
        whole = whole.astype(float)
        whole[index - 1] = value
        changed[letter] = whole
    return names | changed


def nodes(names, letter, index=None, sums=True):
    """The nodes and the weights of an integral over a letter, or the values of a sum over it with weights 1."""
    family = f"{letter}_{{{SLOT}}}"
    found = None
    if index and "d" + family in names:
        found = entry(resolved(names["d" + family], names), index, "d" + letter)
    elif "d" + letter in names:
        found = resolved(names["d" + letter], names)
    elif sums and key_of(rf"\sum_{letter}") in names:
        values = list(resolved(names[key_of(rf"\sum_{letter}")], names))
        found = values, np.ones(len(values))
    if found is None:
        raise ValueError(f"no nodes were given for d{letter}")
    points, weights = found
    return (points[:, :, None] if np.ndim(points) == 2 else points), weights


def integrated(function, names, letter, index=None, between=None):
    """The integral (or the sum) of a function of the values over a letter."""
    points, weights = between or nodes(names, letter, index, sums=False)
    found = [product(w, function(with_value(names, letter, z, index))) for z, w in zip(points, weights, strict=True)]
    total = found[0]
    for one in found[1:]:
        total = added(total, one)
    return total


def probabilities(density, names, letter, index=None):
    """The values that a law takes, and their probabilities, or their densities times weights. They must sum to one."""
    points, weights = nodes(names, letter, index)
    chances = [w * scalar(density(with_value(names, letter, z, index))) for z, w in zip(points, weights, strict=True)]
    if abs(sum(chances) - 1) > PROBABILITY:
        raise ValueError(f"a law of {letter} sums up to {sum(chances)}; are its nodes wide and dense enough?")
    return [(z, chance) for z, chance in zip(points, chances, strict=True) if chance > NEVER]


def draws(chances, names, letter, indices):
    """The ways to draw values with these probabilities, once for each index: changed values and their probability."""
    for chosen in itertools.product(chances, repeat=len(indices)):
        changed, together = names, 1.0
        for index, (z, chance) in zip(indices, chosen, strict=True):
            changed, together = with_value(changed, letter, z, index), together * chance
        yield changed, together


def mean(pairs):
    """The mean of values with their probabilities."""
    total = None
    for value, chance in pairs:
        one = product(chance, value)
        total = one if total is None else added(total, one)
    return total


def variance(pairs):
    """The variance of a number, the covariance matrix of a column."""
    pairs = [(np.atleast_2d(operand(value)), chance) for value, chance in pairs]
    if any(value.shape[1] != 1 for value, _ in pairs):
        raise ValueError("a variance is that of a number or of a column")
    centre = mean(pairs)
    return number(mean(((value - centre) @ (value - centre).T, chance) for value, chance in pairs))


def divergence(first, second, names, letter, index=None):
    """Of two densities, each a function of the values."""
    total = 0.0
    for z, chance in probabilities(first, names, letter, index):
        inner = with_value(names, letter, z, index)
        ratio = scalar(first(inner)) / scalar(second(inner)) if scalar(second(inner)) else np.inf
        total += chance * np.log(ratio)
    return total


# --- derivatives ---


def slope(function, at):
    """The derivative at a number, by a difference of the sixth order: exact to about 1e-12 for what is smooth."""
    step = 2e-3 * max(1.0, abs(at))
    total = None
    for k, factor in ((1, 45), (2, -9), (3, 1)):
        for sign in (1, -1):
            one = product(sign * factor, function(at + sign * k * step))
            total = one if total is None else added(total, one)
    return product(1 / (60 * step), total)


def derivative(function, names, name, indices):
    """The derivative of a function of the values by a name with these indices; by all entries of a column or matrix."""
    key, letter = name.key, name.head
    if not indices:
        at = resolved(names[key], names) if key in names else None
        if isinstance(at, np.ndarray) and at.size > 1:
            found = np.zeros(at.shape)
            for where in np.ndindex(*at.shape):

                def moved(x, where=where):
                    other = np.array(at, dtype=float)
                    other[where] = x
                    return scalar(function(with_value(names, key, other)))

                found[where] = slope(moved, at[where])
            return found
        if at is not None:
            return slope(lambda x: function(with_value(names, key, x)), scalar(at))
    elif len(indices) == 1 and not name.layer and not name.tail:
        family, index = f"{letter}_{{{SLOT}}}", whole_number(indices[0])
        known = [names[spelling] for spelling in (family, letter) if spelling in names]
        if known:
            at = scalar(entry(resolved(known[0], names), index, letter))
            return slope(lambda x: function(with_value(names, letter, x, index)), at)
    raise ValueError(rf"no value was given for \partial, nor for {name}")
