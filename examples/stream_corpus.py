"""Search a corpus of graphs that stays on disk.

    python examples/stream_corpus.py --graphs 5000

The graphs are written one by one as they come, and read back through memory maps: only
counts of them, a few dozen bytes a graph, are in memory. The filter rejects what cannot
contain the query, an exact solver confirms the rest.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from manifoldkit.datasets import make_molecule_graphs
from manifoldkit.graphs import GraphCorpus, SubgraphRetriever


def molecules(n: int, block: int = 500) -> Iterator[tuple]:
    """Yield graphs a block at a time; a reader of files would do the same."""
    for start in range(0, n, block):
        yield from make_molecule_graphs(min(block, n - start), random_state=start)


def main() -> None:
    """Write a corpus, open it, search it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        corpus = GraphCorpus.write(folder, molecules(arguments.graphs))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{len(corpus)} graphs, {size / 1e3:.0f} kB on disk")
        retriever = SubgraphRetriever(model=None, filter="motif6", verify="all")
        retriever.index(corpus)
        query = (6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)])
        found = retriever.search(query, k=3)
        where = ", ".join(map(str, found.ids))
        print(f"a ring of six is in graphs {where}: {', '.join(found.status)}")
        print(f"{found.counts['exact']} of {len(corpus)} graphs passed the filter")


if __name__ == "__main__":
    main()
