"""``python -m manifoldkit.experiments.moabb_evaluation``, the command of the docs.

What it does stands in :mod:`manifoldkit.experiments.spd.moabb_evaluation`.
"""

import typer

from manifoldkit.experiments.spd.moabb_evaluation import main

if __name__ == "__main__":
    typer.run(main)
