"""Where each parameter of the authors' EqMotion code goes in ours."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_DEAD_IN_LAYER = ("coord_mlp.", "node_att_mlp.")


@dataclass
class _Reader:
    """A state dict that remembers which of its entries were taken."""

    content: Mapping[str, Tensor]
    taken: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    def copy(self, name: str, target: Tensor, transpose: bool = False) -> None:
        """Copy an entry into (a part of) a parameter."""
        if name not in self.content:
            self.missing.append(name)
            return
        value = self.content[name]
        value = value.T if transpose else value
        if target.ndim == value.ndim + 1 and target.shape[0] == 1:
            target = target[0]
        if value.shape != target.shape:
            expected = target.T if transpose else target
            raise ValueError(
                f"{name}: expected shape {tuple(expected.shape)} for this model, "
                f"found {tuple(self.content[name].shape)}"
            )
        self.taken.add(name)
        with torch.no_grad():
            target.copy_(value)

    def linear(self, name: str, module: nn.Linear, rows: slice = slice(None)) -> None:
        """Copy a linear map, or some of its outputs."""
        self.copy(f"{name}.weight", module.weight[rows])
        if module.bias is not None:
            self.copy(f"{name}.bias", module.bias[rows])

    def mlp(self, name: str, first: nn.Linear, second: nn.Linear) -> None:
        """Copy a map of two linear layers."""
        self.linear(f"{name}.0", first)
        self.linear(f"{name}.2", second)


def load_reference(model, content: Mapping[str, Tensor], strict: bool) -> list[str]:
    """Fill ``model``; see :meth:`EqMotion.load_reference_state_dict`."""
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): v for name, v in content.items()}
    reader = _Reader(content)
    _read_stem(reader, model)
    for i, layer in enumerate(model.layers):
        _read_layer(reader, f"gcl_{i}", layer)
    if model.heads is None:
        reader.copy("predict_head.weight", model.head.weight)
    else:
        for j in range(model.n_modes):
            _read_head(reader, j, model.heads)
    left = [name for name in content if name not in reader.taken]
    is_dead = _dead_names(model)
    unknown = [name for name in left if not is_dead(name)]
    if strict and (reader.missing or unknown):
        raise ValueError(
            "state dict: expected the parameters of the authors' EqMotion for this "
            f"configuration; missing {reader.missing[:4]}, unknown {unknown[:4]}"
        )
    return left


def _read_stem(reader: _Reader, model) -> None:
    reader.linear("embedding", model.speed_embedding)
    reader.linear("embedding2", model.angle_embedding)
    reader.linear("coord_trans", model.position_channels)
    reader.linear("vel_trans", model.velocity_channels)
    if model.agent_embedding is not None:
        reader.copy("agent_embed", model.agent_embedding)
        reader.mlp("embed_MLP", model.agent_mlp[0], model.agent_mlp[2])
    r = model.reasoning
    reader.mlp("coord_mlp", r.distance[0], r.distance[2])
    reader.mlp("edge_mlp", r.edge, r.edge_out)
    reader.mlp("node_mlp", r.node[0], r.node[2])
    reader.mlp("category_mlp", r.logit, r.logit_out)


def _read_layer(reader: _Reader, name: str, layer) -> None:
    n = layer.hidden
    reader.linear(f"{name}.mlp_q.0", layer.attention)
    for k in range(layer.n_active):
        expert = f"{name}.category_mlp.{k}"
        reader.linear(f"{expert}.0", layer.pair, slice(k * n, (k + 1) * n))
        reader.linear(f"{expert}.2", layer.experts[k])
    reader.mlp(f"{name}.factor_mlp", layer.factor[0], layer.factor[2])
    reader.copy(f"{name}.coord_vel.weight", layer.velocity.weight)
    c = layer.channels
    reader.copy(f"{name}.layer_q.weight", layer.rectifier.weight[:c])
    reader.copy(f"{name}.layer_k.weight", layer.rectifier.weight[c:])
    if layer.update_pattern:
        rows = slice(layer.n_active * n, None)
        reader.linear(f"{name}.edge_mlp.0", layer.pair, rows)
        reader.linear(f"{name}.edge_mlp.2", layer.message)
        reader.mlp(f"{name}.node_mlp", layer.node[0], layer.node[2])


def _read_head(reader: _Reader, j: int, heads) -> None:
    name, c = f"head_{j}", heads.channels

    def linear(source: str, weight: Tensor, bias: Tensor) -> None:
        reader.copy(f"{source}.weight", weight, transpose=True)
        reader.copy(f"{source}.bias", bias[0])

    linear(f"{name}.mlp_q.0", heads.attention[j], heads.attention_bias[j])
    for k in range(heads.n_active):
        e, expert = j * heads.n_active + k, f"{name}.category_mlp.{k}"
        linear(f"{expert}.0", heads.pair[e], heads.pair_bias[e])
        linear(f"{expert}.2", heads.expert[e], heads.expert_bias[e])
    linear(f"{name}.factor_mlp.0", heads.factor[j], heads.factor_bias[j])
    linear(f"{name}.factor_mlp.2", heads.factor_out[j], heads.factor_out_bias[j])
    reader.copy(f"{name}.coord_vel.weight", heads.velocity[j], transpose=True)
    reader.copy(f"{name}.layer_q.weight", heads.rectifier[j][:, :c], transpose=True)
    reader.copy(f"{name}.layer_k.weight", heads.rectifier[j][:, c:], transpose=True)
    reader.copy(f"predict_head.{j}.weight", heads.out[j], transpose=True)


def _dead_names(model) -> Callable[[str], bool]:
    """Tell the names of parameters that the authors' code creates and never uses."""
    last = len(model.layers) - 1 if model.heads is None else None

    def is_dead(name: str) -> bool:
        match = re.fullmatch(r"(gcl|head)_(\d+)\.(.+)", name)
        if match is None:
            return False
        kind, number, rest = match[1], int(match[2]), match[3]
        count = len(model.layers) if kind == "gcl" else model.n_modes
        if number >= count:
            return False
        if rest.startswith(_DEAD_IN_LAYER):
            return True
        expert = re.match(r"category_mlp\.(\d+)\.", rest)
        if expert:
            return model.n_active <= int(expert[1]) < model.n_categories
        unused = kind == "head" or number == last
        return unused and rest.startswith(("edge_mlp.", "node_mlp."))

    return is_dead
