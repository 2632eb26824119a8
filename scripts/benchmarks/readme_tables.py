"""Write the README's tables of results from scripts/benchmarks/results/*.json.

Examples:
  python scripts/benchmarks/readme_tables.py           rewrite README.md
  python scripts/benchmarks/readme_tables.py --check   exit 1 if that would change it
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _results
from _tables import machine
from _tables_methods import methods, semi_labelled, temperature_and_batch
from _tables_time import fast, time_to_knn, tuning, views_per_second

README = Path(__file__).resolve().parents[2] / "README.md"


def digits() -> str:
    """Few-label accuracy on digits, one row a representation."""
    result = _results.read("run_digits")
    rows = [
        "| representation | 1 label per class | 5 labels | 10 labels | kNN, all labels |",
        "|---|---|---|---|---|",
    ]
    for name, counts in result["few_label"].items():
        cells = [
            f"{100 * c['mean']:.1f} ± {100 * c['std']:.1f}" for c in counts.values()
        ]
        rows.append(
            f"| {name} | {' | '.join(cells)} | {100 * result['knn'][name]:.1f} |"
        )
    return "\n".join([*rows, "", _how(result)])


def real_images() -> str:
    """kNN accuracy on sets of real images, one row a set."""
    rows = [
        "| images | size | epochs | time | pixels | untrained | trained | trained, 10 labels per class |",
        "|---|---|---|---|---|---|---|---|",
    ]
    commands = []
    for name, title in (
        ("run_fashion_mnist", "Fashion-MNIST, 20,000 of its training images"),
        ("run_cifar10_jpeg", "CIFAR-10, JPEG re-encoded"),
        ("run_photos", "Caltech-101, 12 classes, folder with ten broken files"),
    ):
        result = _results.read(name)
        knn = [
            f"{100 * result['knn'][part]:.1f}"
            for part in ("pixels", "untrained", "trained")
        ]
        knn[-1] = f"**{knn[-1]}**"
        few = result["few_label"]["trained"]["10"]
        size = f"{result['image_shape'][0]} px"
        cells = [
            title,
            size,
            f"{result['epochs']}",
            f"{result['seconds'] / 60:.1f} min",
            *knn,
        ]
        rows.append(
            f"| {' | '.join(cells)} | {100 * few['mean']:.1f} ± {100 * few['std']:.1f} |"
        )
        commands.append(f"- {title}: `{result['command']}`")
    return "\n".join([*rows, "", machine(result) + " Commands:", "", *commands])


def input_share() -> str:
    """What the pipeline and the augmentation cost in a training step."""
    result = _results.read("input_share")
    real, ready = (1e3 * result["median_seconds"][name] for name in ("real", "ready"))
    return (
        f"A step of `{result['encoder']}` at {result['image_size']} pixels, batch {result['batch_size']}: "
        f"{real:.0f} ms with the pipeline and the augmentation, {ready:.0f} ms on one batch of ready views: "
        f"they cost **{100 * result['share']:.1f} %** of the step (`{result['command']}`; medians of "
        f"{len(result['seconds']['real'])} interleaved measurements)."
    )


def first_batch() -> str:
    """How long a million files take to their first batch."""
    result = _results.read("first_batch")
    total = result["load_seconds"] + result["first_batch_seconds"]
    return (
        f"A folder of {result['images']:,} files (links, {result['classes']:,} classes) is listed and split in "
        f"{result['load_seconds']:.1f} s and gives its first batch after **{total:.1f} s**; the last batch of epoch 7 "
        f"takes {result['last_batch_of_epoch_7_seconds']:.1f} s. Memory: {result['megabytes']:.0f} MiB "
        f"(`{result['command']}`)."
    )


def evaluation() -> str:
    """What the measures of many embeddings cost, one row a measure."""
    result = _results.read("evaluation")
    rows = ["| measure | time | peak memory |", "|---|---|---|"]
    for name, found in result["measures"].items():
        measure, *of = name.partition("_1")
        of = f" of {found['classes']:,} classes" if of[0] else ""
        rows.append(
            f"| `{measure}`{of} | {found['seconds']:.0f} s | {found['peak_mib']:,} MiB |"
        )
    how = (
        f"{result['rows']:,} embeddings of dimension {result['dim']} (`knn_accuracy` and `linear_probe`: a tenth of them "
        f"held out), memory of the whole process with TensorFlow: `{result['command']}`. {machine(result)}"
    )
    return "\n".join([*rows, "", how])


def search() -> str:
    """How long exact and approximate search take, one row a way."""
    results = [
        _results.read(name)
        for name in ("search", "search_embeddings")
        if (_results.RESULTS / f"{name}.json").exists()
    ]
    if not results:
        return "Not measured: `python scripts/benchmarks/search.py`."
    titles = {
        "ours": "**`search.Index`**",
        "tensorflow": "`tf.math.top_k` of the product",
        "faiss": "faiss `IndexFlatIP`",
        "faiss_approximate": '`Index(approximate="faiss")`',
        "usearch_approximate": '`Index(approximate="usearch")`',
    }
    heads = [
        f"{result['rows']:,} {result['kind']} rows of dimension {result['dim']}"
        for result in results
    ]
    rows = [f"| {' | '.join(['search', *heads])} |", "|---" * (1 + len(heads)) + "|"]
    for name, title in titles.items():
        cells = [title]
        for result in results:
            cell = f"{1e3 * result['median_seconds'][name]:.1f} ms"
            cell = f"**{cell}**" if name == "ours" else cell
            if name in result["recall"]:
                cell += f", finds {100 * result['recall'][name]:.1f} %, built in {result['build_seconds'][name]:.1f} s"
            cells.append(cell)
        rows.append(f"| {' | '.join(cells)} |")
    result = results[0]
    versions = ", ".join(f"{name} {v}" for name, v in result["peers"].items())
    how = (
        f"`{result['command']}`: {result['queries']} queries at a time, the {result['top']} nearest of each, {result['threads']} "
        "threads, NumPy arrays in and out, in turns, medians; the exact ways find the same. Real embeddings: `--embeddings "
        f"FILE.npz`. {machine(result)} {versions}."
    )
    return "\n".join([*rows, "", how])


def duplicates() -> str:
    """How well near-duplicates are found, one row a kind of alteration."""
    result = _results.read("duplicates")
    kinds = result["kinds"]
    ways = list(next(iter(kinds.values())))
    rows = [
        f"| planted copies | {' | '.join(ways)} |",
        "|---" * (1 + len(ways)) + "|",
    ]
    for kind, found in kinds.items():
        cells = [
            f"{100 * found[way]['average_precision']:.0f}, {100 * found[way]['recall']:.0f}"
            for way in ways
        ]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    fixed = kinds["all kinds"]["embeddings, whitened"]["by_threshold"]
    fixed = "; ".join(
        f"{threshold}: {100 * at['precision']:.0f}, {100 * at['recall']:.0f}"
        for threshold, at in fixed.items()
        if at["precision"] is not None
    )
    how = (
        f"Copies of {result['copies']} of {result['photographs']} photographs. In the cells, in percent: average precision "
        f"of all pairs ranked by similarity, and the share of right pairs found at {100 * result['precision']:.0f} % "
        f"precision. Whitened embeddings, all kinds, precision and recall by threshold: {fixed}. "
        f"`{result['command']}`. {machine(result)}"
    )
    return "\n".join([*rows, "", how])


def embed() -> str:
    """How fast photographs are embedded, one row a size."""
    result = _results.read("embed")
    rows = [
        "| encoder's images | decoding alone | read by the loader | embedded, end to end | share of the loader's rate | of decoding alone |",
        "|---|---|---|---|---|---|",
    ]
    for size, rates in result["images_per_second"].items():
        decoding, loader, embedding = (
            rates[name] for name in ("decoding", "loader", "embedding")
        )
        rows.append(
            f"| {size} px | {decoding:,} | {loader:,} | {embedding:,} | {100 * embedding / loader:.0f} % | {100 * embedding / decoding:.0f} % |"
        )
    width, height = result["image_sides"]
    how = (
        f"Images a second: {result['images']:,} JPEG files of {width} x {height} pixels, `small_resnet`, medians of "
        f"{result['turns']} turns: `{result['command']}`. {machine(result)}"
    )
    return "\n".join([*rows, "", how])


def collapse() -> str:
    """In which runs the watch raised an alarm, one row a run."""
    found = {
        "digits, 4 epochs": ["digits-1297-epochs4-seed0"],
        "Fashion-MNIST, 2,560 images, seeds 0, 1": [
            f"fashion_mnist-2560-epochs2-seed{seed}" for seed in (0, 1)
        ],
        "CIFAR-10, 2,560 images, seeds 0, 1": [
            f"cifar10_jpeg-2560-epochs2-seed{seed}" for seed in (0, 1)
        ],
        "CIFAR-10, 10,000 images, seeds 0, 2; 1 for 5 epochs": [
            "cifar10_jpeg-10000-epochs2-seed0",
            "cifar10_jpeg-10000-epochs2-seed2",
            "cifar10_jpeg-10000-epochs5-seed1",
        ],
    }
    results = {
        title: [_results.read(f"collapse/{name}") for name in names]
        for title, names in found.items()
    }
    runs = dict.fromkeys(
        run for of in results.values() for result in of for run in result["runs"]
    )
    rows = [
        f"| run | {' | '.join(results)} |",
        f"|---|{'---|' * len(results)}",
    ]
    # Broken runs have a method's name and what was taken away.
    good = [name for name in runs if "-" not in name]
    for name in [*good, *(name for name in runs if "-" in name)]:
        cells = [
            ", ".join(_alarm(each["runs"][name]) for each in of if name in each["runs"])
            for of in results.values()
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    how = (
        "Good runs above, then runs whose guard was taken away; in the cells the epoch of the alarm. "
        "`python scripts/benchmarks/collapse.py --data SPEC --images N --seed K`. "
        + machine(next(iter(results.values()))[0])
    )
    return "\n".join([*rows, "", how])


def _alarm(run) -> str:
    return "none" if run["reason"] is None else f"**{run['reason'].split(':')[0]}**"


def input_stall() -> str:
    """How much longer a step takes with its input, one row a source."""
    result = _results.read("input_stall")
    rows = [
        "| source | a step is longer by, fastest rounds | by medians | a batch alone | of the processors' time in a step |",
        "|---|---|---|---|---|",
    ]
    median = {
        name: statistics.median(clock for clock, _ in measured)
        for name, measured in result["seconds"].items()
    }
    for name, source in result["sources"].items():
        by_median = median[name] / median["cached"] - 1
        rows.append(
            f"| {name} | {100 * source['slower']:+.1f} % | {100 * by_median:+.1f} % | {1e3 * source['batch_alone_seconds']:.1f} ms | "
            f"{100 * source['share_of_processors']:.1f} % |"
        )
    how = (
        f"`{result['command']}`: `{result['encoder']}` at {result['image_size']} pixels, batch "
        f"{result['batch_size']}, views drawn in the step, beside the same step on one batch in memory, "
        f"{1e3 * result['cached_seconds']:.0f} ms; the fastest of {result['rounds']} interleaved rounds of "
        f"{result['steps']} steps, and their medians. {machine(result)}"
    )
    return "\n".join([*rows, "", how])


def losses() -> str:
    """Time and memory of the losses, one row a loss, size and library."""
    import losses as benchmark

    record = _results.read("losses")
    measured_on = record["results"]["machine"]
    rows = [
        "| loss | pairs | ours | other libraries | our time, of the fastest other |",
        "|---|---|---|---|---|",
    ]
    cases: dict = {}
    for row in benchmark.summary(record["results"]):
        cases.setdefault((row["loss"], row["pairs"]), []).append(row)
    for (loss, pairs), (ours, *others) in cases.items():
        cost = f"**{_cost(ours)}**"
        listed = [f"{row['library']} {_cost(row)}{_other(row, ours)}" for row in others]
        ratio = ""
        if others:
            share = ours["seconds"] / min(row["seconds"] for row in others)
            ratio = f"{share:.2f}" if share >= 0.1 else f"1 / {1 / share:,.0f}"
        rows.append(
            f"| `{loss}` | {pairs:,} | {cost} | {'; '.join(listed)} | {ratio} |"
        )
    own = {key: measured[0] for key, measured in cases.items()}
    largest = own["nt_xent", 4096]
    limit = benchmark.limit_seconds(measured_on, 4096)
    versions = ", ".join(
        f"{name} {version}" for name, version in record["peers"].items()
    )
    return "\n".join(
        [
            *rows,
            "",
            f"`{record['command']}`: float32, dimension {benchmark.DIM} (or as named; DINO 4,096), {record['threads']} threads, each measurement in a "
            f"process of its own, libraries in turns, medians. {machine(record)} {versions}. On this machine two products of "
            f"all rows and all exponentials, at the rates measured for one tile, would take {_duration(limit)} at 4,096 "
            f"pairs: NT-Xent runs at {limit / largest['seconds']:.0%} of that.",
        ]
    )


def _cost(row: dict) -> str:
    """Time, and memory beyond the inputs."""
    memory = row["extra_bytes"]
    beyond = "" if memory is None else f", {memory / 2**20:,.0f} MiB"
    return _duration(row["seconds"]) + beyond


def _other(row: dict, ours: dict) -> str:
    """A remark where the library's value is not ours to float32 rounding."""
    same = math.isclose(row["value"], ours["value"], rel_tol=1e-4)
    return "" if same else f" (value {row['value']:.5g}, ours {ours['value']:.5g})"


def augment() -> str:
    """Views per second of the SimCLR recipe, by size and library."""
    import augment as benchmark

    record = _results.read("augment")
    names = {
        "ours": "**keras_contrastive**",
        "tf_image": "`tf.image`, per image in `Dataset.map`",
        "kornia": "kornia, batched",
        "keras": "Keras' layers",
        "lightly": "lightly's transform",
        "torchvision": "torchvision v2",
    }
    rows = benchmark.summary(record["results"])
    plain = [row for row in rows if not row["kind"].endswith("_huge")]
    heads = [
        f"{row['size']} px" + (", blur" if row["kind"] == "blur" else "")
        for row in plain
    ]
    lines = [f"| views per second | {' | '.join(heads)} |"]
    lines.append("|---" * (1 + len(heads)) + "|")
    for name, title in names.items():
        speeds = [row["speeds"].get(name) for row in plain]
        cells = ["-" if speed is None else f"{speed:,.0f}" for speed in speeds]
        if name == "ours":
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    ratios = [
        f"{row['speeds']['ours'] / benchmark.best_peer(row['speeds'])[0]:.1f}"
        for row in plain
    ]
    lines.append(f"| ours, in times of the best other | {' | '.join(ratios)} |")
    versions = ", ".join(f"{name} {v}" for name, v in record["peers"].items())
    huge = {row["kind"]: row for row in rows if row["kind"].endswith("_huge")}
    largest = next(row for row in plain if row["size"] == benchmark.HUGE_PAGES_SIZE)
    waits = largest["speeds"]["ours"] / largest["floor"]
    return "\n".join(
        [
            *lines,
            "",
            f"`{record['command']}`: batches of {benchmark.BATCH} views, {record['threads']} threads (or processes, for "
            "torchvision and lightly), each measurement in a process of its own, libraries in turns, medians. "
            f"{machine(record)} {versions}.",
            "",
            f"At {largest['size']} pixels a batch of float views is "
            f"{benchmark.BATCH * 12 * largest['size'] ** 2 / 2**20:.0f} MiB, and writing it once, into memory fresh from "
            f"the system, takes {waits:.0%} of our time. With memory in huge pages (`{_setting(benchmark.HUGE_PAGES)}` before "
            f"the command) it is {huge['plain_huge']['speeds']['ours']:,.0f} views per second, "
            f"{huge['blur_huge']['speeds']['ours']:,.0f} with blur, beside "
            f"{huge['plain_huge']['speeds']['tf_image']:,.0f} and {huge['blur_huge']['speeds']['tf_image']:,.0f} of `tf.image`.",
        ]
    )


def _setting(environment: dict) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def one_loss() -> str:
    """What plain Keras with one loss gives."""
    result = _results.read("one_loss")
    knn = {name: f"{100 * value:.1f} %" for name, value in result["knn"].items()}
    return (
        f"`{result['command']}`, on {result['train_images']:,} training images of Fashion-MNIST, seed {result['seed']}: "
        f"kNN accuracy (k = 20) {knn['pixels']} of pixels, {knn['untrained']} of the untrained network, "
        f"**{knn['trained']}** after {result['epochs']} epochs, {result['seconds']:.0f} s. {machine(result)}"
    )


TABLES = {
    "methods": methods,
    "temperature_and_batch": temperature_and_batch,
    "time_to_knn": time_to_knn,
    "fast": fast,
    "tuning": tuning,
    "views_per_second": views_per_second,
    "semi_labelled": semi_labelled,
    "one_loss": one_loss,
    "digits": digits,
    "real_images": real_images,
    "first_batch": first_batch,
    "input_share": input_share,
    "input_stall": input_stall,
    "evaluation": evaluation,
    "search": search,
    "duplicates": duplicates,
    "embed": embed,
    "collapse": collapse,
    "losses": losses,
    "augment": augment,
}


def _how(result: dict) -> str:
    return f"`{result['command']}`, seed {result['seed']}, {result['seconds']:.0f} s of training. {machine(result)}"


def filled(text: str) -> str:
    """The README with every `<!-- table: NAME -->` block written anew."""

    def block(found):
        return f"{found[1]}\n{TABLES[found[2]]()}\n<!-- end -->"

    return re.sub(
        r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", block, text, flags=re.DOTALL
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args(argv)
    text = README.read_text()
    if filled(text) == text:
        return 0
    if args.check:
        print(
            "README.md does not show the results as they are: run scripts/benchmarks/readme_tables.py"
        )
        return 1
    README.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
