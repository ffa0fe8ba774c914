"""The trainer of the scikit-learn faces."""

from typing import Any


def training_log(net: Any) -> list[dict[str, Any]]:
    """Return the log of a skorch trainer, one row an epoch, as plain numbers."""
    names = ("epoch", "train_loss", "valid_loss", "dur")
    return [
        {
            name: row[name] if name == "epoch" else float(row[name])
            for name in names
            if name in row
        }
        for row in net.history
    ]
