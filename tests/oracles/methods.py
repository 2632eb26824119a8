"""Training as the methods' papers write it: float64 NumPy, plain gradient descent, one step after another.

A network is a list of layer names over flat lists of parameters and of batch statistics, both in the layers' order:

    dense   kernel, bias        linear  kernel               cosine  prototypes `[k, d]`: cosine with each
    norm    gamma, beta (batch normalisation with the rows' own mean and biased variance)
    whiten  batch normalisation without gamma and beta
    flatten, pool (mean over the image), relu, gelu, tanh, unit (rows of length 1)

What the papers hold still for the gradient (targets, neighbours, codes, the teacher, weights) is worked out first, by
`hold`; the gradient of the rest is taken by central differences. Rows are image-major: view v of image i is row
i * views + v. Embeddings are `[batch, views, dim]`, as are targets.
"""

from __future__ import annotations

import copy
import math

import numpy as np

NORM_EPSILON = 1e-5


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def log_softmax(logits) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits) -> np.ndarray:
    return np.exp(log_softmax(logits))


def cross_entropy(probabilities, logits) -> float:
    """The mean over rows of -sum_k p_k log softmax(logits)_k."""
    return float(-(probabilities * log_softmax(logits)).sum(axis=-1).mean())


def ordered_pairs(views: int, others: int):
    return [(i, j) for i in range(views) for j in range(others) if i != j]


def mean_over_pairs(loss, first, second) -> float:
    """The mean of `loss(first[:, i], second[:, j])` over i != j."""
    pairs = ordered_pairs(first.shape[1], second.shape[1])
    return float(np.mean([loss(first[:, i], second[:, j]) for i, j in pairs]))


# Networks


def forward(layers, parameters, rows):
    """The outputs, and the batch statistics [mean, variance, mean, ...] of the normalisations in order."""
    queue, moments = list(parameters), []
    for layer in layers:
        if layer in ("dense", "linear"):
            rows = rows @ queue.pop(0)
            rows = rows + queue.pop(0) if layer == "dense" else rows
        elif layer in ("norm", "whiten"):
            mean, variance = rows.mean(axis=0), rows.var(axis=0)
            moments += [mean, variance]
            rows = (rows - mean) / np.sqrt(variance + NORM_EPSILON)
            rows = rows * queue.pop(0) + queue.pop(0) if layer == "norm" else rows
        elif layer == "cosine":
            rows = unit(rows) @ unit(queue.pop(0)).T
        elif layer == "flatten":
            rows = rows.reshape(len(rows), -1)
        elif layer == "pool":
            rows = rows.mean(axis=(1, 2))
        elif layer == "relu":
            rows = np.maximum(rows, 0)
        elif layer == "gelu":  # x times the normal distribution function of x
            rows = rows * (1 + np.vectorize(math.erf)(rows / math.sqrt(2))) / 2
        elif layer == "tanh":
            rows = np.tanh(rows)
        elif layer == "unit":
            rows = unit(rows)
        else:
            raise AssertionError(layer)
    assert not queue, f"{len(queue)} parameters more than the layers {layers} take"
    return rows, moments


def project(networks, parameters, views):
    """Projections `[batch, views, dim]` of views of several sizes `[batch, some, ...]`, and the head's moments.

    The encoder is called once a size, the head once on all rows. Returns (projections, moments by network).
    """
    features, moments = [], {"encoder": None, "head": None}
    for size in views:
        rows = size.reshape((-1, *size.shape[2:]))
        given, moments["encoder"] = forward(
            networks["encoder"], parameters["encoder"], rows
        )
        features.append(given)
    rows, moments["head"] = forward(
        networks["head"], parameters["head"], np.concatenate(features)
    )
    return rows, moments


def by_view(rows, views) -> np.ndarray:
    """Rows, size after size, as `[batch, views, dim]`."""
    parts, start = [], 0
    for size in views:
        batch, some = size.shape[:2]
        part = rows[start : start + batch * some]
        parts.append(part.reshape(batch, some, -1))
        start += batch * some
    return np.concatenate(parts, axis=1)


# Objectives


def info_nce(anchors, positives, negatives, temperature) -> float:
    """van den Oord et al. 2018: mean of -log(e^{a.p/t} / (e^{a.p/t} + sum_k e^{a.n_k/t})), `negatives` for all alike."""
    anchors, positives = unit(anchors), unit(positives)
    near = (anchors * positives).sum(axis=1, keepdims=True)
    far = anchors @ unit(negatives).T if len(negatives) else np.zeros((len(near), 0))
    return float(
        -log_softmax(np.concatenate([near, far], axis=1) / temperature)[:, 0].mean()
    )


def info_nce_in_batch(anchors, candidates, temperature) -> float:
    """The same, the negatives being the other rows of `candidates`, the positive the anchor's own."""
    logits = unit(anchors) @ unit(candidates).T / temperature
    return float(-np.diag(log_softmax(logits)).mean())


def sup_con(embeddings, ids, temperature, position="out") -> float:
    """Khosla et al. 2020, Eq. 2 (out) or 3 (in), over all views of all images; the mean over the rows.

    With each image's own id, two views and "out" it is NT-Xent (Chen et al. 2020, Eq. 1).
    """
    views = embeddings.shape[1]
    rows = unit(embeddings.reshape(-1, embeddings.shape[-1]))
    ids = np.repeat(ids, views)
    logits = rows @ rows.T / temperature
    values = []
    for i, row in enumerate(logits):
        others = np.arange(len(rows)) != i
        near = others & (ids == ids[i])
        log_all = np.log(np.exp(row[others]).sum())
        if position == "out":
            values.append((log_all - row[near]).mean())
        else:
            values.append(log_all - np.log(np.exp(row[near]).mean()))
    return float(np.mean(values))


def decoupled_weights(embeddings, sigma=0.5) -> np.ndarray:
    """Yeh et al. 2021, the weight of each positive pair: 2 - e^{s/sigma} / mean e^{s/sigma}."""
    rows = unit(embeddings)
    raised = np.exp((rows[:, 0] * rows[:, 1]).sum(axis=1) / sigma)
    return 2 - raised / raised.mean()


def decoupled(embeddings, temperature, weights=1.0) -> float:
    """Yeh et al. 2021: -w_i s_ij / t + log sum over the views of other images; the mean over all 2n rows."""
    rows = unit(embeddings)
    near = (rows[:, 0] * rows[:, 1]).sum(axis=1) / temperature
    total = 0.0
    for view in range(2):
        for i in range(len(rows)):
            others = np.delete(rows, i, axis=0).reshape(-1, rows.shape[-1])
            total += np.log(np.exp(others @ rows[i, view] / temperature).sum())
    return float(total / (2 * len(rows)) - (weights * near).mean())


def sigmoid(first, second, scale, bias) -> float:
    """Zhai et al. 2023: -(1 / n) sum_ij log sigmoid(y_ij (scale s_ij + bias)), y = 1 on the diagonal, else -1."""
    logits = scale * unit(first) @ unit(second).T + bias
    signs = 2 * np.eye(len(first)) - 1
    return float(np.log1p(np.exp(-signs * logits)).sum() / len(first))


def regression(predictions, targets) -> float:
    """Grill et al. 2020, Eq. 2: the mean of |unit(p) - unit(t)|^2 = 2 - 2 cos."""
    return float(2 - 2 * (unit(predictions) * unit(targets)).sum(axis=1).mean())


def barlow_twins(first, second, weight) -> float:
    """Zbontar et al. 2021, Eq. 1."""
    first = (first - first.mean(axis=0)) / first.std(axis=0)
    second = (second - second.mean(axis=0)) / second.std(axis=0)
    correlation = first.T @ second / len(first)
    diagonal = np.diag(correlation)
    apart = (correlation**2).sum() - (diagonal**2).sum()
    return float(((1 - diagonal) ** 2).sum() + weight * apart)


def vicreg(first, second, invariance, variance, covariance) -> float:
    """Bardes et al. 2022 in the form of their code: the variance terms are averaged, the covariance terms added."""
    n, dim = first.shape
    value = invariance * ((first - second) ** 2).mean()
    for rows in (first, second):
        centred = rows - rows.mean(axis=0)
        matrix = centred.T @ centred / (n - 1)
        deviation = np.sqrt(np.diag(matrix) + 1e-4)
        value += variance * np.maximum(0, 1 - deviation).mean() / 2
        value += covariance * ((matrix**2).sum() - (np.diag(matrix) ** 2).sum()) / dim
    return float(value)


def sinkhorn(scores, epsilon, iterations=3) -> np.ndarray:
    """Caron et al. 2020, A.1 (their listing): codes, each row a distribution, of equal use of the prototypes."""
    codes = np.exp((scores - scores.max()) / epsilon)
    codes /= codes.sum()
    for _ in range(iterations):
        codes /= codes.sum(axis=0, keepdims=True) * codes.shape[1]
        codes /= codes.sum(axis=1, keepdims=True) * codes.shape[0]
    return codes * len(codes)


def margin_loss(anchors, positives, negatives, margin) -> float:
    """Hadsell et al. 2006, Eq. 4, with one negative for each anchor, in Euclidean distances."""
    near = np.linalg.norm(anchors - positives, axis=1)
    far = np.linalg.norm(anchors - negatives, axis=1)
    return float(((near**2 + np.maximum(0, margin - far) ** 2) / 2).mean())


def triplet_semi_hard(rows, ids, margin) -> float:
    """Schroff et al. 2015, Eq. 3 and Sec. 3.2: the mean over all (anchor, positive) of [d_ap - d_an + margin]+, d the
    squared distance, with the nearest negative that is farther than the positive, and if there is none the farthest."""
    distances = ((rows[:, None] - rows[None]) ** 2).sum(axis=-1)
    values = []
    for a in range(len(rows)):
        far = distances[a, ids != ids[a]]
        for p in np.flatnonzero(ids == ids[a]):
            if p != a and len(far):
                beyond = far[far > distances[a, p]]
                chosen = beyond.min() if len(beyond) else far.max()
                values.append(max(0.0, distances[a, p] - chosen + margin))
    return float(np.mean(values))


# Training


def cosine_momentum(start, final, update, steps) -> float:
    """Grill et al. 2020, Sec. 3: from `start` at update 0 to `final` at update `steps`, along a cosine."""
    progress = min(update, steps) / steps
    return final - (final - start) * (math.cos(math.pi * progress) + 1) / 2


class Method:
    """Online networks and one step of gradient descent; a method says what is held still and what is minimised.

    Args:
        networks: Layer names of "encoder", "head" and, where there is one, "predictor".
        parameters: Lists of arrays by network, and "loss": what the loss learns.
        statistics: Lists of arrays by network: the normalisations' moving means and variances.
        rate: The step size.
        norm_momentum: By network, how much of the moving statistics stays.
        leaky: Whether gradients flow into what the paper holds still: the mistake that a test must be able to see.
    """

    def __init__(
        self, networks, parameters, statistics, *, rate, norm_momentum, leaky=False
    ):
        self.networks = networks
        self.parameters = copy.deepcopy(parameters)
        self.statistics = copy.deepcopy(statistics)
        self.rate, self.norm_momentum, self.leaky = rate, norm_momentum, leaky
        self.steps_done = 0
        self.start()

    def start(self) -> None:
        """State of the method's own."""

    def targets(self, projections, views, parameters):
        """`[batch, target views, dim]` or None; `parameters` are the online ones."""
        return None

    def hold(self, embeddings, targets, parameters):
        """What is a constant for the gradient."""
        return targets

    def objective(self, embeddings, held, learned, ids) -> float:
        raise NotImplementedError

    def follow(self, targets, projections) -> None:
        """What moves after the weights: queues, centres, target networks."""

    def frozen(self):
        """(network, index) of the parameters without a gradient in this step."""
        return []

    def embed(self, parameters, views):
        """Embeddings, projections, and the moments of each network."""
        rows, moments = project(self.networks, parameters, views)
        projections = by_view(rows, views)
        if "predictor" in self.networks:
            rows, moments["predictor"] = forward(
                self.networks["predictor"], parameters["predictor"], rows
            )
        return by_view(rows, views), projections, moments

    def step(self, views, ids=None) -> float:
        """Train on one batch of views `[batch, views, ...]` (or a list of several sizes); the loss before the step."""
        views = [np.asarray(size, np.float64) for size in _sizes(views)]
        embeddings, projections, moments = self.embed(self.parameters, views)
        targets = self.targets(projections, views, self.parameters)
        held = self.hold(embeddings, targets, self.parameters)

        def loss(parameters):
            embedded, projected, _ = self.embed(parameters, views)
            constants = held
            if self.leaky:
                moved = self.targets(projected, views, parameters)
                constants = self.hold(embedded, moved, parameters)
            return self.objective(embedded, constants, parameters.get("loss"), ids)

        value = loss(self.parameters)
        gradients = numerical_gradients(loss, self.parameters)
        for network, index in self.frozen():
            gradients[network][index] *= 0
        for name, arrays in self.parameters.items():
            for array, gradient in zip(arrays, gradients[name]):
                array -= self.rate * gradient
        self._move(self.statistics, moments)
        self.follow(targets, projections)
        self.steps_done += 1
        return value

    def _move(self, statistics, moments) -> None:
        for name, seen in moments.items():
            keep = self.norm_momentum.get(name, 0.0)
            for moving, batch in zip(statistics.get(name, []), seen):
                moving *= keep
                moving += (1 - keep) * batch


def _sizes(views):
    return views if isinstance(views, (list, tuple)) else [views]


def numerical_gradients(loss, parameters, step=1e-6):
    """Central differences of `loss(parameters)`, an array beside each array."""
    gradients = {}
    for name, arrays in parameters.items():
        gradients[name] = []
        for array in arrays:
            gradient = np.zeros_like(array)
            for index in np.ndindex(array.shape):
                kept = array[index]
                array[index] = kept + step
                above = loss(parameters)
                array[index] = kept - step
                below = loss(parameters)
                array[index] = kept
                gradient[index] = (above - below) / (2 * step)
            gradients[name].append(gradient)
    return gradients


class WithMomentum(Method):
    """A target network that follows encoder and head (He et al. 2020, Eq. 2): w <- m w + (1 - m) online."""

    momentum, momentum_steps, final_momentum = 0.99, None, 1.0

    def start(self):
        self.followers = {
            name: copy.deepcopy(self.parameters[name]) for name in ("encoder", "head")
        }
        self.follower_statistics = {
            name: copy.deepcopy(self.statistics[name]) for name in ("encoder", "head")
        }
        self.seen = None

    def targets(self, projections, views, parameters):
        networks = parameters if self.leaky else self.followers
        rows, self.seen = project(self.networks, networks, views[:1])
        return by_view(rows, views[:1])

    def follow(self, targets, projections):
        momentum = self.momentum
        if self.momentum_steps is not None:
            momentum = cosine_momentum(
                momentum, self.final_momentum, self.steps_done, self.momentum_steps
            )
        for name, arrays in self.followers.items():
            for array, online in zip(arrays, self.parameters[name]):
                array *= momentum
                array += (1 - momentum) * online
        self._move(self.follower_statistics, self.seen)


class SimCLR(Method):
    """Chen et al. 2020."""

    temperature = 0.5

    def objective(self, embeddings, held, learned, ids):
        own = np.arange(len(embeddings))
        return sup_con(embeddings, own, self.temperature)


class SupCon(Method):
    """Khosla et al. 2020."""

    temperature, position = 0.1, "out"

    def objective(self, embeddings, held, learned, ids):
        return sup_con(embeddings, ids, self.temperature, self.position)


class Decoupled(Method):
    """Yeh et al. 2021; `weighted`: DCLW, whose weights carry no gradient."""

    temperature, weighted = 0.1, False

    def hold(self, embeddings, targets, parameters):
        return decoupled_weights(embeddings) if self.weighted else 1.0

    def objective(self, embeddings, held, learned, ids):
        return decoupled(embeddings, self.temperature, held)


class SigLIPViews(Method):
    """Zhai et al. 2023 with two views for image and text. The loss learns [log scale, bias]."""

    def objective(self, embeddings, held, learned, ids):
        log_scale, bias = learned
        scale = float(np.exp(log_scale))
        return mean_over_pairs(
            lambda a, b: sigmoid(a, b, scale, float(bias)), embeddings, embeddings
        )


class MoCo2(WithMomentum):
    """He et al. 2020 with the head of Chen et al. 2020 (v2): negatives from the queue alone, both directions."""

    temperature, momentum, queue_size = 0.2, 0.999, 65536

    def start(self):
        super().start()
        self.queue = np.zeros((0, 0))

    def objective(self, embeddings, held, learned, ids):
        return mean_over_pairs(
            lambda q, k: info_nce(q, k, self.queue, self.temperature), embeddings, held
        )

    def follow(self, targets, projections):
        super().follow(targets, projections)
        self.queue = pushed(self.queue, targets, self.queue_size)


def pushed(queue, rows, size) -> np.ndarray:
    """The last `size` unit rows; those of `rows` `[batch, views, dim]` enter image by image."""
    rows = unit(rows.reshape(-1, rows.shape[-1]))
    return np.concatenate([queue, rows])[-size:] if len(queue) else rows[-size:]


class MoCo3(WithMomentum):
    """Chen et al. 2021, Alg. 1: ctr(q1, k2) + ctr(q2, k1), ctr times 2 t, the batch's keys as candidates."""

    temperature = 1.0

    def objective(self, embeddings, held, learned, ids):
        def contrast(q, k):
            return 2 * self.temperature * info_nce_in_batch(q, k, self.temperature)

        return 2 * mean_over_pairs(contrast, embeddings, held)


class BYOL(WithMomentum):
    """Grill et al. 2020: the sum of both directions of |q - z'|^2 on the sphere."""

    def objective(self, embeddings, held, learned, ids):
        return 2 * mean_over_pairs(regression, embeddings, held)


class SimSiam(Method):
    """Chen & He 2021: D = -cos / 2 for each direction, here with a constant: (2 - 2 cos) / 2 averaged."""

    def targets(self, projections, views, parameters):
        return projections[:, : views[0].shape[1]]

    def objective(self, embeddings, held, learned, ids):
        return mean_over_pairs(regression, embeddings, held) / 2


class BarlowTwins(Method):
    """Zbontar et al. 2021."""

    redundancy_weight = 0.005

    def objective(self, embeddings, held, learned, ids):
        return mean_over_pairs(
            lambda a, b: barlow_twins(a, b, self.redundancy_weight),
            embeddings,
            embeddings,
        )


class VICReg(Method):
    """Bardes et al. 2022."""

    invariance, variance, covariance = 25.0, 25.0, 1.0

    def objective(self, embeddings, held, learned, ids):
        weights = self.invariance, self.variance, self.covariance
        return mean_over_pairs(
            lambda a, b: vicreg(a, b, *weights), embeddings, embeddings
        )


class NNCLR(Method):
    """Dwibedi et al. 2021: the nearest neighbour of z1 in the support set against all predictions of view 2, and the
    other way round; then the batch's z1 enter the set."""

    temperature, queue_size = 0.1, 98304

    def start(self):
        self.queue = np.zeros((0, 0))

    def targets(self, projections, views, parameters):
        rows = unit(projections[:, : views[0].shape[1]])
        return rows if not len(self.queue) else nearest(rows, self.queue)

    def objective(self, embeddings, held, learned, ids):
        def contrast(predictions, neighbours):
            return info_nce_in_batch(neighbours, predictions, self.temperature)

        return mean_over_pairs(contrast, embeddings, held)

    def follow(self, targets, projections):
        self.queue = pushed(self.queue, projections[:, :1], self.queue_size)


def nearest(rows, memory) -> np.ndarray:
    """For each of `rows` `[..., dim]` the row of `memory` of the largest cosine."""
    memory = unit(memory)
    return memory[np.argmax(unit(rows) @ memory.T, axis=-1)]


class SwAV(Method):
    """Caron et al. 2020: each view tells the codes of the other global views. The loss learns [prototypes]."""

    temperature, epsilon, iterations = 0.1, 0.05, 3
    freeze_steps, queue_size, queue_start = 0, 0, 0

    def start(self):
        self.queue = np.zeros((0, 0))

    def targets(self, projections, views, parameters):
        return projections[:, : views[0].shape[1]]

    def frozen(self):
        return [("loss", 0)] if self.steps_done < self.freeze_steps else []

    def hold(self, embeddings, targets, parameters):
        prototypes = unit(parameters["loss"][0])
        full = self.queue_size and len(self.queue) == self.queue_size
        past = self.queue if full and self.steps_done >= self.queue_start else None
        codes = []
        for view in range(targets.shape[1]):
            rows = unit(targets[:, view])
            everything = rows if past is None else np.concatenate([rows, past])
            scores = everything @ prototypes.T
            codes.append(sinkhorn(scores, self.epsilon, self.iterations)[: len(rows)])
        return np.stack(codes, axis=1)

    def objective(self, embeddings, held, learned, ids):
        logits = unit(embeddings) @ unit(learned[0]).T / self.temperature
        return mean_over_pairs(lambda p, q: cross_entropy(q, p), logits, held)

    def follow(self, targets, projections):
        if self.queue_size:
            self.queue = pushed(self.queue, targets, self.queue_size)


class DINO(WithMomentum):
    """Caron et al. 2021, Alg. 1."""

    student_temperature, teacher_temperature, center_momentum = 0.1, 0.04, 0.9
    warmup_temperature, warmup_steps = None, 0
    momentum, freeze_steps = 0.996, 0

    def start(self):
        super().start()
        self.center = 0.0

    def frozen(self):
        last = len(self.parameters["head"]) - 1
        return [("head", last)] if self.steps_done < self.freeze_steps else []

    def sharpness(self) -> float:
        if self.warmup_temperature is None or self.steps_done >= self.warmup_steps:
            return self.teacher_temperature
        share = self.steps_done / self.warmup_steps
        start = self.warmup_temperature
        return start + share * (self.teacher_temperature - start)

    def hold(self, embeddings, targets, parameters):
        return softmax((targets - self.center) / self.sharpness())

    def objective(self, embeddings, held, learned, ids):
        return mean_over_pairs(
            lambda s, t: cross_entropy(t, s / self.student_temperature),
            embeddings,
            held,
        )

    def follow(self, targets, projections):
        super().follow(targets, projections)
        keep = self.center_momentum
        self.center = keep * self.center + (1 - keep) * targets.mean(axis=(0, 1))


class Siamese(Method):
    """Hadsell et al. 2006 on (anchor, positive, negative) rows."""

    margin = 1.0

    def objective(self, embeddings, held, learned, ids):
        anchors, positives, negatives = np.moveaxis(embeddings, 1, 0)
        return margin_loss(anchors, positives, negatives, self.margin)


class Triplet(Method):
    """Schroff et al. 2015; the head ends on the unit sphere."""

    margin = 0.2

    def objective(self, embeddings, held, learned, ids):
        rows = embeddings.reshape(-1, embeddings.shape[-1])
        return triplet_semi_hard(rows, np.repeat(ids, embeddings.shape[1]), self.margin)
