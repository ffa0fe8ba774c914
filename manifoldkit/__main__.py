"""``python -m manifoldkit``: the command line."""

from manifoldkit.cli import app

if __name__ == "__main__":
    app()
