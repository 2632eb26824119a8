"""How long a search for the most similar embeddings takes: ours, TensorFlow's plain top-k, faiss and usearch.

All in one process on the same rows, in turns, NumPy arrays in and out; medians of single calls. The exact ways are
first compared with ours; for the approximate ones (`search.Index(approximate=...)`) the share of the true neighbours
that they find is measured. Needs faiss-cpu and usearch.

Results go to scripts/benchmarks/results/search.json; with --embeddings to search_embeddings.json.

Examples:
  python scripts/benchmarks/search.py                                 100,000 random rows
  python scripts/benchmarks/search.py --embeddings embeddings.npz     real ones, as scripts/embed.py writes them
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

EXACT = ("ours", "tensorflow", "faiss")
APPROXIMATE = ("faiss_approximate", "usearch_approximate")
# Of float32 products in another order of summation.
ROUNDING = 1e-5


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=100_000, help="random embeddings (default: 100000)"
    )
    parser.add_argument(
        "--dim", type=int, default=128, help="numbers in each (default: 128)"
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE.npz",
        help="its array `embeddings` instead; some of them, left out, are the queries",
    )
    parser.add_argument(
        "--queries", type=int, default=64, help="queries in a batch (default: 64)"
    )
    parser.add_argument(
        "--top", type=int, default=10, help="neighbours of each (default: 10)"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="turns of each way (default: 9)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of every library (default: 2)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # faiss
    import _results
    import _workers

    _workers.limit_tensorflow(args.threads)
    rows, batches = data(args)
    ways, build_seconds = searches(rows, args.top)
    compare(ways, batches[0])
    recall = {
        name: recall_of(ways[name], ways["ours"], batches) for name in APPROXIMATE
    }
    seconds = take_turns(ways, batches, args.rounds)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        found = f", recall {recall[name]:.3f}" if name in recall else ""
        print(f"{name}: {1e3 * median:.1f} ms{found}")
    name = "search_embeddings" if args.embeddings else "search"
    values = {
        "kind": "real" if args.embeddings else "random",
        "rows": len(rows),
        "dim": rows.shape[1],
        "queries": args.queries,
        "top": args.top,
        "threads": args.threads,
        "peers": _workers.peer_versions(
            "faiss-cpu", "usearch", python=Path(sys.executable)
        ),
        "median_seconds": medians,
        "recall": recall,
        "build_seconds": build_seconds,
        "seconds": seconds,
    }
    _results.write(name, values)
    return 0


def data(args):
    """Unit rows to search in, and batches of others to search for."""
    import numpy as np

    from keras_contrastive._numerics import unit_rows

    rng = np.random.default_rng(0)
    num_queries = 8 * args.queries
    if args.embeddings:
        found = np.load(args.embeddings)["embeddings"]
        found = unit_rows(found[rng.permutation(len(found))])
    else:
        found = rng.standard_normal((num_queries + args.rows, args.dim), np.float32)
        found = unit_rows(found)
    queries, rows = found[:num_queries], found[num_queries:]
    return np.ascontiguousarray(rows), np.split(queries, 8)


def searches(rows, k: int):
    """Functions from queries to places `(m, k)` and scores by the name of the way, and how long the indexes took."""
    import faiss
    import tensorflow as tf

    from keras_contrastive.search import Index

    seconds = {}

    def built(name, make):
        start = time.perf_counter()
        index = make()
        seconds[name] = round(time.perf_counter() - start, 3)
        return index

    def flat():
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index

    def ours(name, **options):
        index = built(name, lambda: Index(rows, **options))
        return lambda queries: index.search(queries, k)

    held = tf.constant(rows)

    @tf.function(input_signature=[tf.TensorSpec([None, rows.shape[1]])])
    def plain(queries):
        return tf.math.top_k(tf.matmul(queries, held, transpose_b=True), k)

    def by_tensorflow(queries):
        found = plain(tf.constant(queries))
        return found.indices.numpy(), found.values.numpy()

    index = built("faiss", flat)
    ways = {
        "ours": ours("ours"),
        "tensorflow": by_tensorflow,
        "faiss": lambda queries: index.search(queries, k)[::-1],
    }
    for name in APPROXIMATE:
        library = name.partition("_")[0]
        ways[name] = ours(name, approximate=library, approximate_from=1)
    return ways, seconds


def compare(ways, queries) -> None:
    """Raise unless the exact ways find what ours finds, but for rows that are equally near up to rounding."""
    import numpy as np

    ids, scores = ways["ours"](queries)
    for name in EXACT[1:]:
        other_ids, other_scores = ways[name](queries)
        np.testing.assert_allclose(scores, other_scores, atol=ROUNDING)
        for row, column in np.argwhere(ids != other_ids):
            near = np.abs(scores[row] - scores[row, column]) < ROUNDING
            at_end = scores[row, column] - scores[row, -1] < ROUNDING
            if near.sum() < 2 and not at_end:
                raise AssertionError(f"{name} finds others than ours for query {row}")


def recall_of(way, exact, batches) -> float:
    """The share of the true neighbours that are found."""
    import numpy as np

    found = [(way(queries)[0], exact(queries)[0]) for queries in batches]
    hits = [len(np.intersect1d(*rows)) for pair in found for rows in zip(*pair)]
    return float(np.mean(hits) / found[0][0].shape[1])


def take_turns(ways, batches, rounds: int) -> dict[str, list[float]]:
    """Seconds of single calls, of each way in turn; the first call of a turn does not count."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way(batches[-1])
            for queries in batches[:4]:
                start = time.perf_counter()
                way(queries)
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
