"""EqMotion: forecasts of interacting agents that turn and shift with the scene."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import check_settings, count, one_of, optional, positive
from manifoldkit.equivariant.eqmotion.graphs import forward_graphs
from manifoldkit.equivariant.eqmotion.inputs import (
    MISSING,
    Tracks,
    check_category,
    check_edges,
    dct_matrix,
    invariants,
    read_tracks,
)
from manifoldkit.equivariant.eqmotion.layers import (
    InteractionLayer,
    InteractionReasoning,
    ModalHeads,
    masked_mean,
    mlp,
)
from manifoldkit.equivariant.eqmotion.outputs import (
    EqMotionOutput,
    both_valid,
    finish,
)
from manifoldkit.equivariant.eqmotion.pairs import (
    NORMALIZE,
    DensePairs,
    EdgePairs,
    Pairs,
)
from manifoldkit.equivariant.eqmotion.reference_names import load_reference
from manifoldkit.equivariant.eqmotion.scaling import RESCALE, normalize_scenes

_RULES = {
    **dict.fromkeys(("past_len", "hidden"), count(2)),
    **dict.fromkeys(("future_len", "channels", "n_layers"), count()),
    **dict.fromkeys(("n_categories", "n_modes"), count()),
    "n_null": count(0),
    "n_agents": optional(count()),
    "tau": positive,
    "angle": one_of("reference", "atan2"),
    "neighbors": one_of("dense", "edge_index"),
    "missing": one_of(*MISSING),
    "normalize_neighbors": one_of(*NORMALIZE),
    "category_activation": one_of("silu", None),
    "rescale": one_of("auto", *RESCALE),
    "validate": one_of("finite", None),
}


class EqMotion(nn.Module):
    r"""Motion forecasting equivariant under rotations, reflections and translations.

    Each agent has vectors G (channels of positions in the frequency domain), which
    turn with the scene, and invariant features h (from speeds and turning angles).
    A reasoning block sorts every ordered pair into one of K categories of interaction;
    each layer then computes

    .. math::
        G_i' &= G_i + \varphi(h_i) (G_i - \mu)
            + \sum_j w_{ij} (G_i - G_j) + U V_i, \\
        G_i &\leftarrow q_i - \min(\langle q_i, k_i\rangle, 0)
            \frac{k_i}{|k_i|^2 + 10^{-4}} + \mu', \qquad
            q_i = Q (G_i' - \mu'),\; k_i = K (G_i' - \mu'), \\
        h_i &\leftarrow h_i + \psi\bigl(h_i, \sum_{j\ne i} m(h_i, h_j, |G_i - G_j|)
            \bigr),

    where the edge weight w is a network of the category's expert networks of
    :math:`(h_i, h_j, |G_i - G_j|)`. So for R in O(D) and a translation t the forecast
    of :math:`x R^T + t` is that of x, times :math:`R^T` plus t; permuted agents have
    permuted forecasts (unless ``n_agents`` names them).

    Parameters
    ----------
    past_len, future_len : int
        Observed steps (2 or more) and steps to forecast.
    hidden : int, default=64
        Invariant features; even.
    channels : int, default=64
        Vectors an agent.
    n_layers : int, default=4
        Layers; with several modes the last one is a private layer of each mode.
    n_categories, n_null : int, default=2, 0
        Categories of interaction, and how many of them (the last ones) mean none.
    tau : float, default=1.0
        Temperature of the categories' softmax.
    n_modes : int, default=1
        Alternative forecasts; more than 1 adds an axis of modes to ``pred``.
    n_agents : int, optional
        Number of agents that differ by nature, such as joints of a skeleton: each gets
        a learned embedding, and N must be this number.
    use_dct : bool, default=True
        Work on the discrete cosine transform of the tracks.
    angle : {"reference", "atan2"}, default="reference"
        Turning angle by the authors' formula, or by one that is accurate also for
        small angles.
    neighbors : {"dense", "edge_index"}, default="dense"
        All pairs, or the edges of a graph given to ``forward``.
    missing : {"raise", "hold", "linear"}, default="raise"
        What to do with steps that an agent was not observed at: refuse, repeat the
        last known position, or interpolate.
    normalize_neighbors : {"sum", "mean", "sqrt"}, default="sum"
        Divide sums over neighbors by 1, their number or its root.
    category_activation : {"silu", None}, default="silu"
        SiLU on the logits of the categories, as the authors have it, or none, which
        lets the categories get arbitrarily sharp.
    gumbel : bool, default=False
        Draw one category a pair (straight-through) while training, take the likeliest
        one in evaluation.
    rescale : {"auto", None, "speed", "radius"}, default="auto"
        Divide each scene by its root mean square speed or radius, and multiply the
        forecast by it, which makes the network equivariant under scaling: meters and
        millimeters give the same forecast. "auto" is "radius", but None for weights
        that were trained without, those of the authors and of version 0.1.0. With
        None the unit is part of the method: use it where absolute size has a meaning
        (forces that decay, walking speed) on tracks of a size of about one, since
        activations grow by a high power of it.
    validate : {"finite", None}, default="finite"
        Check outside training that valid positions are finite and given categories
        sum to 1; None never reads values.
    device, dtype : optional
        Device and dtype of all parameters, and so of the computation.

    Raises
    ------
    ValueError
        Sizes or options that do not fit.

    Notes
    -----
    The center of the scene is taken off, and turning angles are computed, in double
    precision before the input is cast to the parameters' dtype, so scenes far from the
    origin lose nothing but what their own dtype has lost. Parameters that the authors'
    code creates and never uses do not exist here. With one agent the experts get no
    gradient (there is no pair).

    References
    ----------
    .. [1] C. Xu et al., "EqMotion: Equivariant multi-agent motion prediction with
       invariant interaction reasoning", CVPR 2023.

    Examples
    --------
    >>> model = EqMotion(past_len=8, future_len=12, hidden=16, channels=8)
    >>> x = torch.randn(2, 5, 8, 3).cumsum(2)
    >>> out = model.predict(x)
    >>> out.pred.shape, out.category.shape
    (torch.Size([2, 5, 12, 3]), torch.Size([2, 5, 5, 2]))
    >>> mirror = x * torch.tensor([-1.0, 1.0, 1.0])
    >>> flipped = out.pred * torch.tensor([-1.0, 1.0, 1.0])
    >>> torch.allclose(model.predict(mirror).pred, flipped, atol=1e-4)
    True
    """

    past_dct: Tensor
    future_dct: Tensor
    rescale_code: Tensor

    def __init__(
        self,
        past_len: int,
        future_len: int,
        hidden: int = 64,
        channels: int = 64,
        n_layers: int = 4,
        n_categories: int = 2,
        n_null: int = 0,
        tau: float = 1.0,
        n_modes: int = 1,
        n_agents: int | None = None,
        use_dct: bool = True,
        angle: str = "reference",
        neighbors: str = "dense",
        *,
        missing: str = "raise",
        normalize_neighbors: str = "sum",
        category_activation: str | None = "silu",
        gumbel: bool = False,
        rescale: str | None = "auto",
        validate: str | None = "finite",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.past_len, self.future_len = past_len, future_len
        self.hidden, self.channels, self.n_layers = hidden, channels, n_layers
        self.n_categories, self.n_null, self.tau = n_categories, n_null, tau
        self.n_modes, self.n_agents, self.use_dct = n_modes, n_agents, use_dct
        self.angle, self.neighbors, self.missing = angle, neighbors, missing
        self.normalize_neighbors = normalize_neighbors
        self.category_activation, self.gumbel = category_activation, gumbel
        self.rescale, self.validate = rescale, validate
        check_settings(self, _RULES)
        if hidden % 2:
            raise ValueError(f"hidden: expected an even number, found {hidden}")
        if n_null >= n_categories:
            raise ValueError(
                f"n_null: expected fewer than n_categories = {n_categories}, "
                f"found {n_null}"
            )
        self.n_active = n_categories - n_null
        self._automatic = rescale == "auto"
        if self._automatic:
            self.rescale = "radius"
        self._build({"device": device, "dtype": dtype})

    def _build(self, factory: dict) -> None:
        hidden, channels, steps = self.hidden, self.channels, self.past_len
        self.speed_embedding = nn.Linear(steps, hidden // 2, **factory)
        self.angle_embedding = nn.Linear(steps, hidden // 2, **factory)
        self.register_parameter("agent_embedding", None)
        self.agent_mlp: nn.Sequential | None = None
        if self.n_agents is not None:
            start = torch.randn(1, self.n_agents, hidden, **factory)
            self.agent_embedding = nn.Parameter(start)
            self.agent_mlp = mlp(2 * hidden, hidden, hidden, **factory)
        self.position_channels = nn.Linear(steps, channels, bias=False, **factory)
        self.velocity_channels = nn.Linear(steps, channels, bias=False, **factory)
        self.reasoning = InteractionReasoning(
            hidden,
            channels,
            self.n_categories,
            self.category_activation is not None,
            **factory,
        )
        shared = self.n_layers if self.n_modes == 1 else self.n_layers - 1
        self.layers = nn.ModuleList(
            InteractionLayer(
                hidden,
                channels,
                self.n_active,
                update_pattern=self.n_modes > 1 or i < shared - 1,
                **factory,
            )
            for i in range(shared)
        )
        self.head: nn.Linear | None = None
        self.heads: ModalHeads | None = None
        if self.n_modes == 1:
            self.head = nn.Linear(channels, self.future_len, bias=False, **factory)
        else:
            self.heads = ModalHeads(
                self.n_modes,
                hidden,
                channels,
                self.n_active,
                self.future_len,
                **factory,
            )
        like = self.speed_embedding.weight
        past = dct_matrix(steps, like.dtype, like.device)
        future = dct_matrix(self.future_len, like.dtype, like.device)
        self.register_buffer("past_dct", past, persistent=False)
        self.register_buffer("future_dct", future, persistent=False)
        # with the weights, because they mean nothing under another rescaling
        code = torch.tensor(RESCALE.index(self.rescale), device=like.device)
        self.register_buffer("rescale_code", code)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        key = f"{prefix}rescale_code"
        stored = state_dict.get(key)
        if self._automatic:
            self.rescale = None if stored is None else RESCALE[int(stored)]
        state_dict[key] = torch.tensor(RESCALE.index(self.rescale))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, by PyTorch's defaults."""
        for module in self.modules():
            if isinstance(module, nn.Linear | ModalHeads):
                module.reset_parameters()
        if self.agent_embedding is not None:
            nn.init.normal_(self.agent_embedding)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"{self.past_len} -> {self.future_len} steps, hidden={self.hidden}, "
            f"channels={self.channels}, n_categories={self.n_categories}, "
            f"n_null={self.n_null}, n_modes={self.n_modes}"
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        category: Tensor | None = None,
        edge_index: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> EqMotionOutput:
        """Forecast.

        Parameters
        ----------
        x : Tensor, shape (B, N, T, D) or (N, T, D)
            Observed positions; any number of agents N and spatial dimensions D. Arrays
            become tensors; integers are refused.
        mask : Tensor of bool, shape (B, N) or (B, N, T), optional
            Valid agents, or observed steps. What is not valid has no influence, NaN
            included, and its outputs are zero.
        category : Tensor, shape (B, N, N, K), or (E, K) with a graph, optional
            Known categories of the pairs, as shares; inferred when not given.
        edge_index : Tensor of int, shape (2, E) or (3, E), optional
            Senders j and receivers i, for all samples the same, or preceded by a row
            of samples (:func:`neighbor_graph` makes these). Only these pairs interact.
        lengths : Tensor of int, shape (B,), optional
            Instead of a mask: the first so many agents are valid.
        batch : Tensor of int, shape (N,), optional
            Graph of each agent when ``x`` (N, T, D) holds several graphs, as
            torch-geometric batches them; ``edge_index`` then numbers all agents.

        Returns
        -------
        EqMotionOutput

        Raises
        ------
        ValueError
            Shapes that do not fit; values that are not finite or categories that do
            not sum to 1 (see ``validate``); partial tracks under ``missing="raise"``.
        TypeError
            Not floating-point numbers.
        """
        if batch is not None:
            if lengths is not None:
                raise ValueError("batch, lengths: expected one of them, found both")
            return EqMotionOutput(
                *forward_graphs(self, x, mask, category, edge_index, batch)
            )
        check = self.validate is not None and not self.training
        tracks = read_tracks(
            x, mask, lengths, self.past_len, self.n_agents, self.missing, check
        )
        kind = x.dtype if isinstance(x, Tensor) else tracks.x.dtype
        mask, (b, n) = tracks.mask, tracks.x.shape[:2]
        center, size, position, velocity = normalize_scenes(
            tracks.x, mask, self.rescale
        )
        h, position, velocity = self._embed(position, velocity, mask)
        pairs = self._pairs(edge_index, (b, n), mask, h)
        features = torch.cat([position, velocity], -1)
        category = self._categories(category, h, features, pairs, tracks, check)
        pairs = pairs.without_self()
        share = category
        if isinstance(pairs, DensePairs):
            share = pairs.from_dense(category)
        for layer in self.layers:
            h, position = layer(h, position, velocity, share, pairs, mask)
        if self.head is not None:
            mean = masked_mean(position, mask)
            y, position = (self.head(position - mean) + mean)[None], position[None]
        elif self.heads is not None:
            y, position = self.heads(h, position, velocity, share, pairs, mask)
        if self.use_dct:
            y = y @ self.future_dct
        pred, vectors = (a.permute(2, 3, 0, 4, 1) for a in (y, position))
        pred = pred * size[..., None] + center[:, None]
        out = EqMotionOutput(
            (pred if self.heads is not None else pred.squeeze(2)).to(kind),
            category,
            h,
            vectors if self.heads is not None else vectors.squeeze(2),
        )
        return finish(out, mask, tracks.batched, edge_index is not None)

    def _embed(
        self, position: Tensor, velocity: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features h (B, N, H), G and V (D, B, N, C)."""
        dtype = self.speed_embedding.weight.dtype
        # in double precision: acos near 1 costs half of the digits there are
        speed, angle = (a.to(dtype) for a in invariants(velocity, self.angle))
        position, velocity = position.to(dtype), velocity.to(dtype)
        h = torch.cat([self.speed_embedding(speed), self.angle_embedding(angle)], -1)
        if self.agent_embedding is not None and self.agent_mlp is not None:
            named = torch.cat([h, self.agent_embedding.expand(h.shape)], -1)
            h = F.silu(self.agent_mlp(named))
        if self.use_dct:
            position, velocity = position @ self.past_dct.T, velocity @ self.past_dct.T
        mean = masked_mean(position, mask)
        position = self.position_channels(position - mean) + mean
        return h, position, self.velocity_channels(velocity)

    def _pairs(
        self,
        edge_index: Tensor | None,
        shape: tuple[int, int],
        mask: Tensor | None,
        like: Tensor,
    ) -> Pairs:
        if edge_index is None:
            if self.neighbors == "edge_index":
                raise ValueError(
                    "edge_index: this model has neighbors='edge_index' and needs a "
                    "graph, found None"
                )
            return DensePairs(shape[1], mask, self.normalize_neighbors, like)
        edges = check_edges(edge_index, shape[0], shape[1], like.device)
        return EdgePairs(edges, shape, mask, self.normalize_neighbors, like)

    def _categories(
        self,
        given: Tensor | None,
        h: Tensor,
        features: Tensor,
        pairs: Pairs,
        tracks: Tracks,
        check: bool,
    ) -> Tensor:
        """Shares of the categories of all pairs, given or inferred."""
        if given is not None:
            given = torch.as_tensor(given, device=h.device)
            k, mask, (b, n) = self.n_categories, tracks.mask, h.shape[:2]
            if isinstance(pairs, DensePairs) or given.ndim >= 3:
                given = given if tracks.batched else given[None]
                check_category(given, (b, n, n, k), mask, check)
                given = pairs.from_dense(given)
            if isinstance(pairs, EdgePairs):
                check_category(given, (pairs.edges.shape[1], k), mask, check)
            elif mask is not None:
                given = given.where(both_valid(mask), 0.0)
            return given.to(h.dtype)
        logits = self.reasoning(h, features, pairs) / self.tau
        if not self.gumbel:
            return logits.softmax(-1)
        if self.training:
            return F.gumbel_softmax(logits, hard=True)
        return F.one_hot(logits.argmax(-1), self.n_categories).to(h.dtype)

    @torch.no_grad()
    def predict(self, x: Tensor, *args: Any, **kwargs: Any) -> EqMotionOutput:
        """Forecast in evaluation mode and without gradients; arguments of ``forward``.

        The mode of the module is given back as it was.
        """
        training = {module: module.training for module in self.modules()}
        try:
            return self.eval()(x, *args, **kwargs)
        finally:
            for module, mode in training.items():
                module.training = mode

    def load_reference_state_dict(
        self, sd: Mapping[str, Tensor], strict: bool = True
    ) -> list[str]:
        """Load parameters under the names of the authors' code.

        Parameters
        ----------
        sd : mapping of str to Tensor
            The content of a released checkpoint.
        strict : bool, default=True
            Refuse names that are missing or unknown.

        Returns
        -------
        list of str
            Names that were left out: parameters which the authors' code creates and
            never uses (and, unless ``strict``, unknown ones).

        Raises
        ------
        ValueError
            Shapes of another configuration; missing or unknown names.
        """
        left = load_reference(self, sd, strict)
        if self._automatic:  # theirs were trained on tracks as they are
            self.rescale = None
            self.rescale_code.fill_(RESCALE.index(None))
        return left
