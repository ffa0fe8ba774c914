"""Names and shapes of the weights in the authors' code."""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

_GRU = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# ours <- theirs; of names that share one tensor in that code any will do
_LAYERS = {
    "node_encoder": ("encoder.MLP1.0",),
    "edge_encoder": ("encoder.MLP2.0",),
    "propagation.message": ("prop_layer._message_net.0",),
    "interaction.0": ("interaction_layer.0", "interaction_encoder.0"),
    "interaction.2": ("interaction_layer.2", "interaction_encoder.2"),
    "align_net.0": (
        "scoring_alignment_preprocessor.0",
        "interaction_alignment_preprocessor.0",
        "sinkhorn_feature_layers.0",
    ),
    "align_net.2": (
        "scoring_alignment_preprocessor.2",
        "interaction_alignment_preprocessor.2",
        "sinkhorn_feature_layers.2",
    ),
    "readout.gate": ("aggregator.MLP1.0",),
    "readout.out": ("aggregator.MLP2.0",),
}
_TWICE = ("prop_layer._reverse_message_net.0", "interaction_alignment_preprocessor")
Network = TypeVar("Network", bound=nn.Module)


def upstream_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the network that the weights belong to."""
    encoder = _get(state, "encoder.MLP1.0.weight")
    message = _get(state, "prop_layer._message_net.0.weight")
    dim = encoder.shape[0]
    sizes = {
        "dim": dim,
        "node_dim": encoder.shape[1],
        "message_dim": message.shape[0],
        "edge_dim": message.shape[1] - 2 * dim,
    }
    if "encoder.MLP2.0.weight" in state:
        sizes["edge_dim"] = state["encoder.MLP2.0.weight"].shape[1]
    for name in _LAYERS["align_net.0"]:
        if f"{name}.weight" in state:
            sizes["align_dim"] = state[f"{name}.weight"].shape[0]
    return sizes


def load_upstream(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Copy the authors' weights into a network of ours, in their dtype.

    Raises
    ------
    ValueError
        Weights that are missing, unknown or of another shape.
    """
    ours, used = {}, set()
    for key, value in network.state_dict().items():
        layer, _, end = key.rpartition(".")
        if layer == "propagation.update":
            names = [f"prop_layer.GRU.{end}_l0"]
        else:
            names = [f"{name}.{end}" for name in _LAYERS.get(layer, ())]
        found = next((name for name in names if name in state), None)
        if found is None:
            raise ValueError(f"state: expected one of {names} for {key}, found none")
        if state[found].shape != value.shape:
            raise ValueError(
                f"state: expected {found} of shape {tuple(value.shape)}, found "
                f"{tuple(state[found].shape)}"
            )
        ours[key] = state[found]
        used.update(names)
    unknown = sorted(k for k in state if k not in used and not k.startswith(_TWICE))
    if unknown:
        raise ValueError(f"state: no place for {unknown}; is kind= right?")
    network.to(next(iter(ours.values())).dtype)
    network.load_state_dict(ours)
    return network


def _get(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ValueError(f"state: expected the weights of the authors' code, no {key}")
    return state[key]
