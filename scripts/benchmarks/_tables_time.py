"""The README's tables of accuracy against time."""

from __future__ import annotations

import statistics

import _results
from _tables import found_results, machine, mean

TIME_MARKS = (30, 90, 240)  # seconds
COMMAND = "python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz"


def time_to_knn() -> str:
    """kNN accuracy after so many seconds of training, one row a run and length of its schedule."""
    import time_to_knn as benchmark

    found = benchmark.results("cifar10_jpeg")
    if not found:
        return f"Not measured: `{COMMAND} --run NAME`."
    heads = " | ".join(f"{mark} s" for mark in TIME_MARKS)
    rows = [
        f"| run | seconds | views/s | {heads} | end |",
        "|---|" + "---|" * (len(TIME_MARKS) + 3),
    ]
    for name, by_seconds in found.items():
        for _, results in sorted(by_seconds.items()):
            speed = statistics.median(r["views_per_second"] for r in results)
            seconds = statistics.fmean(r["seconds"] for r in results)
            cells = [_at_mark(results, mark) for mark in TIME_MARKS]
            end = mean([r["marks"][-1]["knn_200"] for r in results])
            rows.append(
                f"| {name} | {seconds:.0f} | {speed:,.0f} | {' | '.join(cells)} | **{end}** |"
            )
    some = [r for runs in found.values() for results in runs.values() for r in results]
    peers = {name: v for r in some for name, v in r.get("peers", {}).items()}
    versions = "".join(f", {name} {version}" for name, version in peers.items())
    seeds = sorted({r["seed"] for r in some})
    spread = (
        f"the mean of {len(seeds)} seeds ± half their range, or of one seed"
        if len(seeds) > 1
        else f"of one seed, {seeds[0]}"
    )
    how = (
        f"kNN accuracy (k = {benchmark.K}) on the test images of CIFAR-10, JPEG re-encoded, in percent, {spread}; "
        "untrained, `fast` has "
        f"{_untrained(some, 'fast')}, the other encoder {_untrained(some, 'simclr')} with our initial weights and "
        f"{_untrained(some, 'lightly')} with PyTorch's. The learning rate falls to 0 at the end. views/s: of the whole run; those "
        "of `fast` have 16, then 24 pixels, the others 32. "
        f"`{COMMAND} --run NAME --seconds S --seed K`, and `--precision bfloat16`: batches of "
        f"{some[0]['batch_size']}, {some[0]['threads']} threads. {machine(some[0])[:-1]}{versions}."
    )
    return "\n".join([*rows, "", how])


def views_per_second() -> str:
    """Views a second of the steps alone, and how many times as many simclr has."""
    import time_to_knn as benchmark

    if not found_results("views_per_second"):
        return f"Not measured: `{COMMAND} --speed`."
    result = _results.read("views_per_second")
    speeds = result["views_per_second"]
    ours = [benchmark.title("simclr", precision) for precision in benchmark.PRECISIONS]
    heads = " | ".join(f"`{name}`, times this" for name in ours)
    rows = [f"| run | views/s | {heads} |", "|---|---|" + "---|" * len(ours)]
    for name, values in speeds.items():
        cells = [
            "" if name == other else f"{_median_ratio(speeds[other], values):.2f}"
            for other in ours
        ]
        speed = statistics.median(values)
        rows.append(f"| {name} | {speed:,.0f} | {' | '.join(cells)} |")
    how = (
        f"Views a second of training steps, without compilation: medians of {len(speeds['simclr'])} rounds, in each of which "
        f"all are timed for {benchmark.TIMED_SECONDS:.0f} s, one after the other; ratios are taken within a round. Of the "
        "convolutions TensorFlow's passes forward are timed: a step has three of each, two of the first. "
        f"`{COMMAND} --speed`. {machine(result)}"
    )
    return "\n".join([*rows, "", how])


def _is_float32(result: dict) -> bool:
    """Whether its layers computed in float32; results that do not say did."""
    return result.get("precision", "float32") == "float32"


def _median_ratio(numerators, denominators) -> float:
    """The median over rounds."""
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def tuning() -> str:
    """Settings of simclr and lightly on held-out images, one row a choice of them."""
    import time_to_knn as benchmark

    chosen, by_settings = ("temperature", "learning_rate", "min_area"), {}
    for run in ("simclr", "lightly"):
        for result in found_results(
            f"time_to_knn/tuning/cifar10_jpeg-{run}-*-60s-seed0"
        ):
            settings = result["settings"]
            key = tuple(settings[name] for name in chosen)
            if _is_float32(result) and settings == {
                **benchmark.SHARED,
                **dict(zip(chosen, key)),
            }:
                by_settings.setdefault(key, {})[run] = result
    if not by_settings:
        return f"Not measured: `{COMMAND} --run NAME --hold-out --seconds 60 --temperature T`."
    rows = [
        "| temperature | Adam at | crops from | `simclr` | lightly |",
        "|---|---|---|---|---|",
    ]
    for (temperature, rate, area), results in sorted(by_settings.items()):
        cells = [_end_of(results.get(run)) for run in ("simclr", "lightly")]
        rows.append(
            f"| {temperature:g} | {rate:g} | {100 * area:.0f} % | {' | '.join(cells)} |"
        )
    some = next(iter(results.values()))
    how = (
        f"kNN accuracy (k = {benchmark.K}) on 5,000 held-out training images of CIFAR-10, JPEG re-encoded, in percent, and "
        "seconds of training, which were meant to be 60; one seed. "
        f"`{COMMAND} --run NAME --hold-out --seconds 60 --temperature T --learning-rate R --min-area A`. {machine(some)}"
    )
    return "\n".join([*rows, "", how])


def _end_of(result: dict | None) -> str:
    """Accuracy at a run's end, and when that was."""
    if result is None:
        return ""
    return f"{100 * result['marks'][-1]['knn_200']:.1f} ({result['seconds']:.0f} s)"


def _untrained(results: list[dict], run: str) -> str:
    """The accuracy in float32 before the first step, over seeds."""
    of_seeds = {
        r["seed"]: r["marks"][0]["knn_200"]
        for r in results
        if r["run"] == run and _is_float32(r)
    }
    return mean([*of_seeds.values()]) if of_seeds else "?"


def fast() -> str:
    """What `fast` is without one of its parts, one row a part."""
    import time_to_knn as benchmark

    rows, some = ["| | kNN | steps | seconds |", "|---|---|---|---|"], None
    for variant, what in {"": "`fast`", **benchmark.VARIANTS}.items():
        name = f"fast-{variant}" if variant else "fast"
        found = found_results(f"time_to_knn/tuning/cifar10_jpeg-{name}-60s-seed*")
        if not found:
            continue
        some = found[0]
        accuracy = mean([r["marks"][-1]["knn_200"] for r in found])
        lengths = [
            f"{statistics.median(r[name] for r in found):.0f}"
            for name in ("steps", "seconds")
        ]
        rows.append(f"| {what} | {accuracy} | {' | '.join(lengths)} |")
    if some is None:
        return f"Not measured: `{COMMAND} --run fast --hold-out --seconds 60 --variant NAME`."
    how = (
        f"kNN accuracy (k = {benchmark.K}) on 5,000 held-out training images of CIFAR-10, JPEG re-encoded, in percent; each "
        "run was meant to take 60 seconds, and has one seed. "
        f"`{COMMAND} --run fast --hold-out --seconds 60 --variant NAME`. {machine(some)}"
    )
    return "\n".join([*rows, "", how])


def _at_mark(results: list[dict], mark: float) -> str:
    """The accuracy at the first look after so many seconds, which is not that at the end; nothing where there is none."""
    found = [
        next((m["knn_200"] for m in r["marks"][:-1] if m["seconds"] >= mark), None)
        for r in results
    ]
    return "" if None in found else mean(found)
