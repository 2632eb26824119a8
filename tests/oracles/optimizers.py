"""Momentum, LARS and the warm-up with a cosine, number by number in float64."""

from __future__ import annotations

import math

import numpy as np


def train(
    weights,
    gradients,
    rates,
    *,
    momentum=0.9,
    weight_decay=0.0,
    nesterov=False,
    trust_coefficient=None,
    exclude=(),
    clip=False,
) -> dict:
    """The weights after one step for each of `rates`.

    Args:
        weights: Arrays by name.
        gradients: For each step, arrays by name.
        rates: The learning rate of each step.
        momentum: Share of the velocity that is kept.
        weight_decay: L2 decay, added to the gradient.
        nesterov: Look ahead by the momentum.
        trust_coefficient: LARS; None: no ratio.
        exclude: Names without decay and ratio.
        clip: LARC: the ratio is the rate, but where the rate is smaller.
    """
    weights = {name: np.array(value, np.float64) for name, value in weights.items()}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, rate in zip(gradients, rates):
        for name, gradient in step.items():
            w, g = weights[name].reshape(-1), np.array(gradient, np.float64).reshape(-1)
            v = velocity[name].reshape(-1)  # views: what is written here stays
            step_rate = rate
            if name not in exclude:
                g = np.array([a + weight_decay * b for a, b in zip(g, w)])
                if trust_coefficient is not None:
                    ratio = trust_ratio(w, g, trust_coefficient)
                    step_rate = rate * min(ratio / rate, 1) if clip else rate * ratio
            for i in range(len(w)):
                v[i] = momentum * v[i] + step_rate * g[i]
                w[i] -= momentum * v[i] + step_rate * g[i] if nesterov else v[i]
    return weights


def trust_ratio(weights, gradient, trust_coefficient) -> float:
    """trust |w| / |g|, or 1 where one of them is 0."""
    length = math.sqrt(sum(w * w for w in weights))
    slope = math.sqrt(sum(g * g for g in gradient))
    return trust_coefficient * length / slope if length > 0 and slope > 0 else 1.0


def warmup_cosine(step, peak, steps, warmup=0, initial=0.0, final=0.0) -> float:
    """The learning rate at a step, in Python's own numbers."""
    step = max(step, 0)
    if step < warmup:
        return initial + (peak - initial) * step / warmup
    if step == warmup:
        return peak
    if step >= steps:
        return final
    turned = math.pi * (step - warmup) / (steps - warmup)
    return final + (peak - final) * (1 + math.cos(turned)) / 2
