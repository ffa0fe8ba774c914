import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv
from torch_geometric.transforms import (
    Compose,
    LargestConnectedComponents,
    RandomNodeSplit,
    ToUndirected,
    VirtualNode,
)

from manifoldkit.graphs import AddVirtualNodes, VirtualNodeFeatures
from manifoldkit.graphs.virtual.transform import hop_clusters


def graph(n=4, seed=0, **extra):
    g = torch.Generator().manual_seed(seed)
    edges = torch.randint(n, (2, 2 * n), generator=g)
    return Data(x=torch.randn(n, 3, generator=g), edge_index=edges, **extra)


def reach(data):
    """Which nodes feel which, after many steps."""
    n = data.num_nodes
    a = torch.eye(n)
    a[data.edge_index[1], data.edge_index[0]] = 1
    return torch.linalg.matrix_power(a, n) > 0


def crosses(batch):
    graph_of = batch.batch
    return bool(reach(batch)[graph_of[:, None] != graph_of].any())


def test_pygs_transform_leaks_between_the_graphs_of_a_batch_and_ours_does_not():
    batch = Batch.from_data_list([graph(4), graph(5, 1)])
    theirs = VirtualNode()(batch.clone())
    assert theirs.num_nodes == 10  # one node for both graphs
    n = torch.arange(9)
    a = torch.eye(10)
    a[theirs.edge_index[1], theirs.edge_index[0]] = 1
    meet = (a @ a)[:9, :9] > 0
    first = n < 4
    assert meet[first[:, None] != first].all()  # everyone hears the other graph
    ours = AddVirtualNodes()(batch)
    assert ours.num_nodes == 11
    assert not crosses(ours)
    assert ours.batch.tolist() == [0] * 5 + [1] * 6
    assert ours.ptr.tolist() == [0, 5, 11]
    assert [g.num_nodes for g in ours.to_data_list()] == [5, 6]


@pytest.mark.parametrize("num", [1, 3])
def test_a_batch_is_as_its_graphs(num):
    graphs = [graph(4), graph(6, 1), graph(1, 2)]
    transform = AddVirtualNodes(num)
    together = transform(Batch.from_data_list([g.clone() for g in graphs]))
    apart = Batch.from_data_list([transform(g.clone()) for g in graphs])
    for key in ("x", "edge_index", "batch", "ptr", "is_virtual", "virtual_id"):
        assert torch.equal(together[key], apart[key]), key
    torch.manual_seed(0)
    conv = GCNConv(3, 2)
    whole = conv(together.x, together.edge_index)
    alone = transform(graphs[1].clone())
    own = together.batch == 1
    torch.testing.assert_close(whole[own], conv(alone.x, alone.edge_index))


def test_twice_is_once():
    once = AddVirtualNodes(2)(graph())
    twice = AddVirtualNodes(2)(once.clone())
    assert twice.num_nodes == once.num_nodes
    assert VirtualNode()(VirtualNode()(graph())).num_nodes == 6  # theirs: linked ones
    batch = AddVirtualNodes()(Batch.from_data_list([graph(), graph(5)]))
    assert AddVirtualNodes()(batch).num_nodes == batch.num_nodes


def test_links_and_attributes():
    data = graph(
        edge_weight=torch.full((8,), 3.0),
        edge_attr=torch.ones(8, 2),
        edge_type=torch.tensor([0, 1] * 4),
        pos=torch.randn(4, 2),
        y=torch.arange(4.0),
        train_mask=torch.ones(4, dtype=torch.bool),
        label=torch.tensor([1.0]),
    )
    out = AddVirtualNodes(2, edge_weight=0.5)(data.clone())
    assert out.num_nodes == 6
    assert out.num_edges == 8 + 2 * 2 * 4
    assert out.edge_weight[8:].eq(0.5).all()
    assert out.edge_attr[8:].eq(0).all()
    assert out.edge_type[8:].tolist() == [2] * 8 + [3] * 8
    links = out.edge_index[:, 8:]
    for virtual in (4, 5):
        assert sorted(links[0][links[1] == virtual].tolist()) == [0, 1, 2, 3]
        assert sorted(links[1][links[0] == virtual].tolist()) == [0, 1, 2, 3]
    assert out.x[4:].eq(0).all()
    torch.testing.assert_close(out.pos[4], data.pos.mean(0))
    assert out.y[:4].tolist() == [0, 1, 2, 3]
    assert out.y[4:].isnan().all()
    assert out.train_mask.tolist() == [True] * 4 + [False] * 2
    short = AddVirtualNodes(2, extend_targets=False)(data.clone())
    assert len(short.y) == len(short.train_mask) == 4
    assert out.label.tolist() == [1.0]
    assert out.virtual_id.tolist() == [-1] * 4 + [0, 1]
    more = AddVirtualNodes(2, extend_targets=True)(data.clone())
    assert more.y.tolist() == [0, 1, 2, 3, 0, 0]
    assert more.train_mask.tolist() == [True] * 4 + [False] * 2


def test_a_weight_of_their_own_gives_all_edges_weights():
    out = AddVirtualNodes(edge_weight=0.5)(graph())
    assert out.edge_weight.tolist() == [1.0] * 8 + [0.5] * 8
    batch = AddVirtualNodes(edge_weight=0.5)(Batch.from_data_list([graph(), graph(1)]))
    assert batch.edge_weight.shape == (batch.num_edges,)
    assert "edge_weight" not in AddVirtualNodes()(graph())


def test_attributes_of_a_graph_of_one_node_are_not_taken_for_those_of_the_node():
    graphs = [graph(n, energy=torch.ones(1), mass=torch.ones(n)) for n in (4, 1)]
    out = AddVirtualNodes(2)(Batch.from_data_list(graphs))
    assert out.energy.tolist() == [1, 1]
    assert out.mass.tolist() == [1] * 4 + [0, 0] + [1, 0, 0]
    assert [g.energy.tolist() for g in out.to_data_list()] == [[1], [1]]


def test_mean_and_learned_features():
    data = graph(5)
    mean = AddVirtualNodes(2, features="mean")(data.clone())
    torch.testing.assert_close(mean.x[5:], data.x.mean(0).expand(2, 3))
    learned = AddVirtualNodes(2, features="learned")(data.clone())
    layer = VirtualNodeFeatures(2, 3)
    x = layer(learned.x, learned.virtual_id)
    assert torch.equal(x[:5], data.x)
    assert torch.equal(x[5:], layer.weight)
    x.sum().backward()
    assert layer.weight.grad is not None


def test_clusters_are_near_and_random_parts_are_drawn():
    first = torch.arange(9)
    chain = Data(x=torch.eye(10), edge_index=torch.stack([first, first + 1]))
    out = AddVirtualNodes(2, "cluster", "mean")(chain.clone())
    assert out.num_edges == 9 + 20
    torch.testing.assert_close(out.x[10, :5], torch.full((5,), 0.2))
    torch.testing.assert_close(out.x[11, 5:], torch.full((5,), 0.2))
    g = torch.Generator().manual_seed(0)
    drawn = AddVirtualNodes(3, "random", generator=g)(chain.clone())
    owners = drawn.edge_index[1, 9:19]
    assert set(owners.tolist()) <= {10, 11, 12}
    assert hop_clusters(first.new_zeros(2, 0).numpy(), 3, 2).tolist() == [0, 1, 0]


def test_no_nodes_added_and_empty_graphs():
    assert AddVirtualNodes(0)(graph()).num_nodes == 4
    empty = Data(x=torch.zeros(0, 3), edge_index=torch.zeros(2, 0, dtype=torch.int64))
    assert AddVirtualNodes(2, features="mean")(empty).x.shape == (2, 3)
    merged = AddVirtualNodes(batch_safe=False)(Batch.from_data_list([graph(), graph()]))
    assert int(merged.is_virtual.sum()) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="num"):
        AddVirtualNodes(-1)
    with pytest.raises(ValueError, match="scheme"):
        AddVirtualNodes(scheme="metis")
    with pytest.raises(ValueError, match="features"):
        AddVirtualNodes(features="ones")
    with pytest.raises(TypeError, match="Data or Batch"):
        AddVirtualNodes()([graph()])
    with pytest.raises(ValueError, match="edge_index"):
        AddVirtualNodes()(Data(x=torch.ones(2, 1)))
    bare = Batch(x=torch.ones(2, 1), edge_index=torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="before batching"):
        AddVirtualNodes()(bare)


@pytest.mark.parametrize("features", ["zero", "mean"])
def test_no_virtual_nodes_leave_the_graph_as_it_is(features):
    data = graph(4, pos=torch.randn(4, 2))
    out = AddVirtualNodes(0, features=features)(data)
    assert torch.equal(out.x, data.x)
    assert torch.equal(out.edge_index, data.edge_index)
    assert not out.is_virtual.any()


def test_features_of_one_number_a_node_may_come_without_an_axis():
    data = Data(x=torch.arange(3.0), edge_index=torch.tensor([[0, 1], [1, 2]]))
    assert AddVirtualNodes(features="mean")(data).x.tolist() == [0.0, 1.0, 2.0, 1.0]


def labeled(n=6, seed=0, kind="class"):
    """A graph whose every attribute tells the node, or the edge, that it is of."""
    g = torch.Generator().manual_seed(seed)
    own = torch.arange(n)
    y = {"class": own, "number": own.double(), "several": own[:, None].float() + 0.5}
    edges = torch.stack([torch.randint(n, (9,), generator=g) for _ in range(2)])
    return Data(
        x=own[:, None].float(),
        edge_index=edges,
        edge_attr=edges.T.float(),
        y=y[kind].clone(),
        train_mask=own % 2 == 0,
        soft_mask=own / n,
        n_id=own.clone(),
        names=[f"node {k}" for k in range(n)],
        whole=torch.tensor([[1.0, 2.0]]),
        edge_label=torch.ones(9),
        edge_label_index=edges.clone(),
    )


def check_aligned(data, kind):
    """Every entry is that of its node or edge, wherever the node came to be."""
    own = data.x[:, 0].long()
    real = ~data.is_virtual
    assert len(data.y) == len(data.train_mask) == len(data.n_id) == data.num_nodes
    y = data.y.reshape(len(own), -1)[:, 0]
    found = y[real].long()
    assert torch.equal(found, own[real])
    virtual = y[~real]
    assert bool((virtual == -100).all() if kind == "class" else virtual.isnan().all())
    assert torch.equal(data.train_mask, real & (own % 2 == 0))
    assert torch.equal(data.n_id[real], own[real])
    assert (data.n_id[~real] == -1).all()
    assert data.edge_attr.shape == (data.num_edges, 2)
    ends = data.edge_index
    inner = real[ends[0]] & real[ends[1]]
    assert torch.equal(own[ends[:, inner]].T.float(), data.edge_attr[inner])
    assert torch.equal(data.virtual_id >= 0, data.is_virtual)


@pytest.mark.parametrize("kind", ["class", "number", "several"])
@pytest.mark.parametrize("num", [1, 3])
def test_what_a_node_has_stays_with_it(kind, num):
    out = AddVirtualNodes(num)(labeled(kind=kind))
    check_aligned(out, kind)
    assert out.names[6:] == [None] * num
    assert out.edge_label.shape == (9,)
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        subset = torch.rand(6 + num, generator=g) > 0.4
        part = out.subgraph(subset)
        check_aligned(part, kind)
        kept = subset.nonzero()[:, 0].tolist()
        assert part.names == [out.names[k] for k in kept]
    order = torch.randperm(6 + num, generator=g)
    check_aligned(out.subgraph(order), kind)
    keep = torch.rand(out.num_edges, generator=g) > 0.5
    check_aligned(out.edge_subgraph(keep), kind)


@pytest.mark.parametrize("kind", ["class", "number"])
def test_batches_and_loaders_keep_labels_with_their_nodes(kind):
    graphs = [labeled(n, n, kind) for n in (6, 3, 1)]
    for data in graphs:
        del data.edge_label, data.edge_label_index
    transform = AddVirtualNodes(2, extend_targets="ignored")
    (whole,) = DataLoader([transform(g.clone()) for g in graphs[:2]], batch_size=2)
    check_aligned(whole, kind)
    batch = transform(Batch.from_data_list(graphs))
    check_aligned(batch, kind)
    for data in batch.to_data_list():
        check_aligned(data, kind)
    check_aligned(batch.subgraph(torch.arange(batch.num_nodes) % 3 > 0), kind)
    assert batch.whole.shape == (3, 2)


def test_other_transforms_after_it():
    data = labeled()
    del data.edge_label, data.edge_label_index, data.names
    check_aligned(
        Compose([AddVirtualNodes(2), LargestConnectedComponents()])(data.clone()),
        "class",
    )
    out = ToUndirected()(AddVirtualNodes(2)(data.clone()))
    assert out.edge_attr.shape[0] == out.num_edges
    del data.train_mask
    out = AddVirtualNodes()(RandomNodeSplit(num_val=1, num_test=1)(data.clone()))
    for name in ("train_mask", "val_mask", "test_mask"):
        assert out[name].shape == (7,)
        assert not out[name][6]


def test_a_loss_over_all_nodes_counts_the_real_ones():
    data = labeled()
    out = AddVirtualNodes(3)(data.clone())
    logits = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    cross = torch.nn.functional.cross_entropy
    torch.testing.assert_close(cross(logits, out.y), cross(logits[:6], data.y))
    byte = Data(edge_index=data.edge_index, y=torch.arange(6).byte(), num_nodes=6)
    assert AddVirtualNodes()(byte).y.tolist() == [0, 1, 2, 3, 4, 5, 255]


def test_targets_of_graphs_are_no_targets_of_nodes():
    graphs = [graph(n, seed=n, y=torch.tensor([1.0])) for n in (1, 4, 1)]
    for data in graphs:
        assert AddVirtualNodes(2)(data.clone()).y.tolist() == [1]
    assert AddVirtualNodes(2)(Batch.from_data_list(graphs)).y.tolist() == [1, 1, 1]
    assert AddVirtualNodes(2)(Batch.from_data_list(graphs[::2])).y.tolist() == [1, 1]
    node = AddVirtualNodes(2, extend_targets=True)(graphs[0].clone())
    assert node.y.tolist() == [1, 0, 0]


def test_graphs_of_another_kind_are_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"HeteroData.*to_homogeneous"):
        AddVirtualNodes()(HeteroData())
    with pytest.raises(ValueError, match="make it of adj_t"):
        AddVirtualNodes()(Data(x=torch.ones(2, 1), adj_t=torch.eye(2)))
    with pytest.raises(ValueError, match="extend_targets"):
        AddVirtualNodes(extend_targets="zeros")
