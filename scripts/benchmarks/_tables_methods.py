"""The README's tables of the methods: all at one budget, with few labels, simclr by temperature and batch size."""

from __future__ import annotations

import statistics

import _results
from _tables import found_results, machine, mean

COMMAND = "python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz"
DATA_SETS = {
    "fashion_mnist": "Fashion-MNIST",
    "cifar10_jpeg": "CIFAR-10, JPEG re-encoded",
}
# What training is told of the labelled images: nothing, their labels, nothing but them.
WAYS = ("simclr", "supcon", "supervised")


def methods() -> str:
    """What the methods reach in the same time, one row a method: the best by kNN above, what is not trained below."""
    import _method_judging as judging
    import methods as benchmark

    by_method: dict = {}
    for result in found_results("methods/cifar10_jpeg-*-seed*"):
        # Others may be there; those that are not trained have no length.
        if result.get("budget_seconds", benchmark.SECONDS) == benchmark.SECONDS:
            by_method.setdefault(result["method"], []).append(result)
    if not {*by_method} - {*benchmark.UNTRAINED}:
        return f"Not measured: `{COMMAND}`."
    counts = [str(count) for count in judging.LABELS_PER_CLASS]
    heads = ["method", "Adam at", "kNN", "kNN, whitened", "linear probe"]
    heads += [f"{counts[0]} label per class", *counts[1:], "seconds", "steps"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def order(item):
        method, results = item
        last = benchmark.UNTRAINED[::-1]
        place = last.index(method) + 1 if method in last else 0
        return place, -statistics.mean(r["knn_200"] for r in results)

    for method, results in sorted(by_method.items(), key=order):
        rates = {r.get("learning_rate") for r in results} - {None}
        title = f"{method}, with all labels" if method == "supcon" else method
        cells = [title, ", ".join(f"{rate:g}" for rate in sorted(rates))]
        for name in ("knn_200", "knn_200_whitened", "linear_probe"):
            cells.append(mean([r[name] for r in results]))
        for count in counts:
            cells.append(mean([r["few_label"][count]["mean"] for r in results]))
        for name in ("seconds", "steps"):
            average = statistics.mean(r[name] for r in results)
            cells.append(f"{average:,.0f}" if average else "")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", _how_methods(by_method)])


def _how_methods(by_method: dict) -> str:
    """What the figures are, and how they were made."""
    all_results = [r for results in by_method.values() for r in results]
    trained = [r for r in all_results if r["steps"]]
    encoder, batch_size, seconds = (
        _only(name, {r[name] for r in trained})
        for name in ("encoder", "batch_size", "budget_seconds")
    )
    several: dict = {}
    for method, results in by_method.items():
        if len(results) > 1:
            several.setdefault(len(results), []).append(method)
    seeds = "; ".join(f"{', '.join(names)}: {n}" for n, names in several.items())
    spread = f"±: half the range over seeds ({seeds}), one seed elsewhere"
    pixels = [r["linear_probe_images"] for r in by_method.get("pixels", ())]
    of_pixels = (
        f" (of pixels: of {pixels[0]:,}, with one fixed penalty)" if pixels else ""
    )
    return (
        "Accuracy on the test part of CIFAR-10, JPEG re-encoded, in percent: kNN with k = 200, of the features as the model "
        "serves them, those of `fast` are whitened already, and of whitened features; logistic regression on the features of "
        f"all training images{of_pixels}; the nearest of 1, 5, 10 and 100 labelled images per class, mean of 20 draws. "
        f"{spread}. Seconds of training, with compilation. `{COMMAND}`: `{encoder}`, batches of {batch_size}, as many "
        f"steps as {seconds:g} seconds have by the time of a step, the last step; views and settings of `train.py --settings "
        "small`. Adam's rate is the better of 0.001 and 0.003 by kNN on 5,000 held-out training images after 120 steps, one "
        "seed (`--method NAME --hold-out --steps 120 --options JSON`); views, rate and temperature of `fast` are the recipe's, which were chosen "
        f"on this set, by held-out images too. {machine(trained[0])}"
    )


def _only(name: str, values: set):
    """The one value there is: a caption speaks of all rows."""
    if len(values) != 1:
        found = ", ".join(sorted(map(str, values)))
        raise ValueError(
            f"The results of a table must have one {name}. Found: {found}."
        )
    return next(iter(values))


def semi_labelled() -> str:
    """Accuracy by few labels: used in training, not used, and trained on alone."""
    rows = [
        "| labels per class | images | trained without labels (`simclr`) | on both (`supcon`, partly labelled) | on the "
        "labelled alone, supervised |",
        "|---|---|---|---|---|",
    ]
    used: list[dict] = []
    for count in (1, 5, 10):
        for stem, title in DATA_SETS.items():
            found = [_few_label_runs(stem, way, count) for way in WAYS]
            alike = sorted(set.intersection(*map(set, found)))
            if not alike:
                continue
            cells = [
                " / ".join(
                    mean([way[key][name] for key in alike])
                    for name in ("known_labels", "knn_200")
                )
                for way in found
            ]
            rows.append(f"| {count} | {title} | {' | '.join(cells)} |")
            used += [way[key] for way in found for key in alike]
    command = f"{COMMAND.rpartition(' ')[0]} npz:FILE --method NAME --labels-per-class N --steps"
    if not used:
        return f"Not measured: `{command} K`."
    steps, encoder = (
        _only(name, {r[name] for r in used}) for name in ("steps", "encoder")
    )
    rates = ", ".join(
        f"{way} {_only('rate', {r['learning_rate'] for r in used if r['method'] == way}):g}"
        for way in WAYS
    )
    how = (
        "Test accuracy in percent: of logistic regression on the features of the labelled images, the same ones in a row / of "
        "kNN (k = 200) with all labels. One seed, or the mean and half the range of several. "
        f"`{command} {steps}`: `{encoder}`; a quarter of `supcon`'s batches of 256 is labelled, supervised has batches of 60 "
        f"labelled images, six of each class; the same views. Adam's rates ({rates}) are the better of 0.001 and 0.003 on "
        f"held-out images of CIFAR-10: by kNN, for supervised by the known labels. {machine(used[0])}"
    )
    return "\n".join([*rows, "", how])


def _few_label_runs(stem: str, way: str, count: int) -> dict:
    """The runs of a method, by what has to be the same in a row: the seed, the encoder and the length."""
    results = found_results(f"few_labels/{stem}-{way}-{count}-*steps-seed*")
    return {(r["seed"], r["encoder"], r["steps"]): r for r in results}


def temperature_and_batch() -> str:
    """kNN accuracy of simclr, one row a batch size, one column a temperature."""
    import temperature_and_batch as benchmark

    command = f"python scripts/benchmarks/{benchmark.NAME}.py --data"
    if not found_results(benchmark.NAME):
        return f"Not measured: `{command} npz:cifar10_jpeg.npz`."
    result = _results.read(benchmark.NAME)
    points = result["points"]
    found = benchmark.accuracies(points)
    temperatures = sorted({t for values in found.values() for t in values})
    heads = [f"temperature {temperatures[0]:g}", *(f"{t:g}" for t in temperatures[1:])]
    rows = [
        f"| batch | learning rate | steps | {' | '.join(heads)} |",
        "|---" * (3 + len(temperatures)) + "|",
    ]
    for batch_size, values in found.items():
        of_batch = next(p for p in points if p["batch_size"] == batch_size)
        best = max(values.values())
        cells = [f"{values[t]:.1f}" if t in values else "" for t in temperatures]
        cells = [f"**{cell}**" if cell == f"{best:.1f}" else cell for cell in cells]
        rows.append(
            f"| {batch_size:,} | {of_batch['learning_rate']:.2g} | {of_batch['steps']:,} | {' | '.join(cells)} |"
        )
    how = (
        f"kNN accuracy (k = 200) in percent on {result['held_out']:,} held-out training images; the best of a row in bold. "
        f"`simclr` with {result['encoder']}, {result['images']:,} images of training a point, so that larger batches have "
        f"fewer steps, seed {result['seed']}: `{command} {result['data']}`. {machine(result)}"
    )
    return "\n".join([*rows, "", how])
