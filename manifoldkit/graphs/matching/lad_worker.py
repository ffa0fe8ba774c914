"""igraph's LAD, and the process it runs in when it must be possible to stop it."""

import json
import sys
from typing import Any


def lad(query: Any, graph: Any, induced: bool, domains: Any = None) -> Any:
    """Return a mapping of one igraph graph into another, or None."""
    found, mapping = graph.subisomorphic_lad(
        query, domains=domains, induced=induced, return_mapping=True
    )
    return list(mapping) if found else None


def main() -> None:
    """Answer one line of JSON with another, until the input ends."""
    import igraph

    print("ready", flush=True)
    for line in sys.stdin:
        *pair, directed, induced, domains = json.loads(line)
        query, graph = (igraph.Graph(n, rows, directed=directed) for n, rows in pair)
        print(json.dumps({"mapping": lad(query, graph, induced, domains)}), flush=True)


if __name__ == "__main__":
    main()
