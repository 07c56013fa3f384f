"""Graph encoders and decoders: against one graph and one decision at a time, and exact probabilities."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.dag import END, PADDING, START, GraphEncoder, TypeGRU
from nbpkg.nets.dag_decoder import GraphDecoder, Latent, kl
from nbpkg.nets.metad2a import Generator
from nbpkg.seeding import seeded


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(module, *args, scale=1.0, seed=0, **options):
    """A module in float64; larger weights than usual make decisions less even."""
    with seeded(seed):
        net = module(*args, **options).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= scale
    return net


def random_graphs(count, vertices, types, seed=0):
    """Graphs of one adjacency: types (count, vertices), adjacency (vertices, vertices)."""
    rng = np.random.default_rng(seed)
    kinds = torch.from_numpy(rng.integers(0, types, (count, vertices)))
    kinds[:, 0] = START
    return kinds, torch.from_numpy(rng.random((vertices, vertices)) < 0.5).triu(1)


# The slow way: one graph, one vertex, one decision at a time, with torch's own GRU cell on one-hot vectors.


def message(messages, state, vertex):
    vertices = messages.gate.in_features - len(state)
    x = torch.cat([state, F.one_hot(torch.tensor(vertex), vertices).to(state.dtype)])
    return messages.gate(x).sigmoid() * messages.map(x)


def vertex_state(cell, messages, kind, sources):
    """sources: number and state of every vertex that sends."""
    total = torch.zeros(cell.hidden_size, dtype=torch.float64)
    for u, state in sources:
        total = total + message(messages, state, u)
    one_hot = F.one_hot(torch.tensor(kind), cell.input_size).double()
    return torch.nn.GRUCell.forward(cell, one_hot[None], total[None])[0]


def encode(encoder, types, adjacency):
    n, ends = len(types), []
    for way, order in enumerate([range(n), range(n - 1, -1, -1)]):
        edges = adjacency if way == 0 else adjacency.T
        states = {}
        for v in order:
            sources = [(u, states[u]) for u in states if edges[u, v]]
            states[v] = vertex_state(encoder.cells[way], encoder.messages[way], int(types[v]), sources)
        ends.append(states[v])
    return encoder.out(encoder.unify(torch.cat(ends)))


def start_state(decoder, z):
    one_hot = F.one_hot(torch.tensor([START]), decoder.types).double()
    return torch.nn.GRUCell.forward(decoder.cell, one_hot, decoder.enter(z[None]).tanh())[0]


def edge_probability(decoder, states, u, kind, accepted):
    half_done = vertex_state(decoder.cell, decoder.messages, kind, [(w, states[w]) for w in accepted])
    return decoder.edge_head(torch.cat([states[u], half_done]))[0].sigmoid()


def likelihood(decoder, z, types, adjacency):
    """Log probabilities of the types and of the edges of one graph."""
    states, of_types, of_edges = [start_state(decoder, z)], 0, 0
    for v, kind in enumerate(types.tolist()[1:], 1):
        of_types = of_types + decoder.type_head(states[-1]).log_softmax(0)[kind]
        accepted = []
        for u in range(v - 1, -1, -1):
            p = edge_probability(decoder, states, u, kind, accepted)
            of_edges = of_edges + (p if adjacency[u, v] else 1 - p).log()
            accepted += [u] if adjacency[u, v] else []
        states.append(vertex_state(decoder.cell, decoder.messages, kind, [(u, states[u]) for u in accepted]))
    return of_types, of_edges


def outcomes(decoder, z):
    """Every graph that `sample` can give, as (types, edges), with its probability."""
    result = {}

    def grow(states, types, edges, probability):
        v = len(types)
        ends = [(u, v) for u in range(v) if not any(edge[0] == u for edge in edges)]
        last = v == decoder.vertices - 1
        shares = [float(kind == END) for kind in range(decoder.types)]
        shares = shares if last else decoder.type_head(states[-1]).softmax(0).tolist()
        for kind, share in enumerate(shares):
            if kind == END and share:
                result[(*types, kind), frozenset([*edges, *ends])] = probability * share
            elif share:
                connect(states, (*types, kind), edges, [], v - 1, probability * share)

    def connect(states, types, edges, accepted, u, probability):
        v = len(types) - 1
        if u < 0:
            sources = [(w, states[w]) for w in accepted]
            state = vertex_state(decoder.cell, decoder.messages, types[-1], sources)
            grow([*states, state], types, [*edges, *((w, v) for w in accepted)], probability)
            return
        p = edge_probability(decoder, states, u, types[-1], accepted).item()
        connect(states, types, edges, [*accepted, u], u - 1, probability * p)
        connect(states, types, edges, accepted, u - 1, probability * (1 - p))

    grow([start_state(decoder, z)], (START,), [], 1.0)
    return result


def gradients(net, value):
    # A graph without edges needs no messages.
    return torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)


def test_a_look_up_is_the_product_with_a_one_hot_vector():
    cell, types, states = made(TypeGRU, 5, 7), torch.tensor([4, 0, 2]), normal(3, 7)
    expected = cell(F.one_hot(types, 5).double(), states)
    torch.testing.assert_close(cell.step(cell.table()[types], states), expected)
    nothing = cell(F.one_hot(types, 5).double(), torch.zeros_like(states))
    torch.testing.assert_close(cell.step(cell.table()[types], None), nothing)


@pytest.mark.parametrize(("vertices", "seed"), [(6, 0), (6, 1), (3, 0), (1, 0)])
def test_encoding_is_message_passing_along_each_graph(vertices, seed):
    encoder = made(GraphEncoder, 5, 6, 8, 3)
    types, adjacency = random_graphs(4, vertices, 5, seed)
    expected = torch.stack([encode(encoder, row, adjacency) for row in types])
    result = encoder(types, adjacency)
    torch.testing.assert_close(result, expected)
    weights = normal(*result.shape, seed=1)
    wanted = gradients(encoder, (expected * weights).sum())
    torch.testing.assert_close(gradients(encoder, (result * weights).sum()), wanted)


def test_cells_that_share_their_edges_are_encoded_as_each_alone():
    encoder, adjacency = made(GraphEncoder, hidden=16, code=5), cellgraphs.topology()
    ops = np.concatenate([space.random(40, 0), space.random(3, 0), space.all_ops()[:9]])
    types = cellgraphs.types_of(ops)
    expected = torch.stack([encode(encoder, row, adjacency) for row in types])
    together = encoder(types, adjacency)
    torch.testing.assert_close(together, expected)
    wanted = gradients(encoder, expected.square().sum())
    torch.testing.assert_close(gradients(encoder, together.square().sum()), wanted)


def test_what_graphs_have_in_common_is_computed_once(monkeypatch):
    rows, step = [], TypeGRU.step
    monkeypatch.setattr(TypeGRU, "step", lambda *args: rows.append(len(args[1])) or step(*args))
    made(GraphEncoder, hidden=4, code=2)(cellgraphs.types_of(space.all_ops()), cellgraphs.topology())
    assert rows == 2 * [1, 5, 25, 125, 625, 3125, 15625, 15625]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_likelihood_is_the_product_of_every_decision(seed):
    decoder, z = made(GraphDecoder, 5, 6, 3, 8, scale=1.5), normal(4, 3)
    types, adjacency = random_graphs(4, 6, 5, seed)
    graphs = zip(z, types, strict=True)
    of_types, of_edges = zip(*(likelihood(decoder, *graph, adjacency) for graph in graphs), strict=True)
    expected = torch.stack([torch.as_tensor(part, dtype=torch.float64) for part in (*of_types, *of_edges)])
    result = torch.cat(decoder.log_likelihood(z, types, adjacency))
    torch.testing.assert_close(result, expected)
    weights = normal(len(result), seed=1)
    wanted = gradients(decoder, result @ weights)
    torch.testing.assert_close(gradients(decoder, expected @ weights), wanted)


def test_the_likelihood_of_cells_and_its_gradient_in_the_code():
    decoder, adjacency = made(GraphDecoder), cellgraphs.topology()
    types, z = cellgraphs.types_of(space.random(5, 1)), normal(5, 56).requires_grad_()
    expected = sum(sum(likelihood(decoder, *graph, adjacency)) for graph in zip(z, types, strict=True))
    result = sum(decoder.log_likelihood(z, types, adjacency)).sum()
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(torch.autograd.grad(result, z), torch.autograd.grad(expected, z))


def test_probabilities_of_all_graphs_sum_to_one():
    # Graphs of three vertices, and those that have ended after two.
    decoder, z = made(GraphDecoder, 4, 3, 2, 5, scale=3), normal(1, 2)
    total = 0
    for kinds in itertools.chain([(END,)], itertools.product([0, 2, 3], range(4))):
        size = len(kinds) + 1
        pairs = list(itertools.combinations(range(size), 2))
        for chosen in itertools.product([False, True], repeat=len(pairs)):
            adjacency = torch.zeros(size, size, dtype=torch.bool)
            for (u, v), edge in zip(pairs, chosen, strict=True):
                adjacency[u, v] = edge
            logs = decoder.log_likelihood(z, torch.tensor([[START, *kinds]]), adjacency)
            total += sum(logs).exp().item()
    assert total == pytest.approx(1)


def test_graphs_are_drawn_with_their_probabilities():
    decoder, z, n = made(GraphDecoder, 4, 4, 3, 6, scale=2.5, seed=3), normal(3), 40000
    with torch.no_grad():
        expected = outcomes(decoder, z)
    assert len(expected) == 79 and sum(expected.values()) == pytest.approx(1)
    types, adjacency = decoder.sample(z.expand(n, 3), torch.Generator().manual_seed(0))
    seen = dict.fromkeys(expected, 0)
    rows, times = torch.unique(torch.cat([types, adjacency.flatten(1).long()], 1), dim=0, return_counts=True)
    for row, many in zip(rows, times.tolist(), strict=True):
        edges = {(int(u), int(v)) for u, v in row[4:].view(4, 4).nonzero()}
        seen[tuple(kind for kind in row[:4].tolist() if kind != PADDING), frozenset(edges)] += many
    for graph, probability in expected.items():
        assert abs(seen[graph] - n * probability) < 5 * math.sqrt(n * probability) + 5
    assert max(expected.values()) > 10 / len(expected)  # not all alike


def test_every_decision_follows_from_those_before_it():
    # The same random numbers, used one decision at a time: a vertex has one for its type, then for its edges.
    decoder, z = made(GraphDecoder, 5, 6, 3, 8, scale=2, seed=5), normal(60, 3)
    with torch.no_grad():  # messages that tell, and graphs that seldom end early
        decoder.messages.map.weight *= 4
        decoder.type_head[2].bias[END] -= 2
    types, adjacency = decoder.sample(z, torch.Generator().manual_seed(0))
    uniform = torch.rand(60, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for code, row, edges, numbers in zip(z, types, adjacency, uniform, strict=True):
        states, kinds = [start_state(decoder, code)], [kind for kind in row.tolist() if kind != PADDING]
        for v, kind in enumerate(kinds[1:-1], 1):
            heights = decoder.type_head(states[-1]).softmax(0).cumsum(0)
            assert kind == (heights <= numbers[v, 0]).sum()
            accepted = []
            for u in range(v - 1, -1, -1):
                taken = bool(numbers[v, 1 + u] < edge_probability(decoder, states, u, kind, accepted))
                assert edges[u, v] == taken
                accepted += [u] if taken else []
            sources = [(u, states[u]) for u in accepted]
            states.append(vertex_state(decoder.cell, decoder.messages, kind, sources))
    assert len({tuple(row) for row in adjacency.flatten(1).tolist()}) > 30


def test_every_code_has_a_distribution_of_its_own():
    decoder = made(GraphDecoder, 4, 4, 3, 6, scale=2.5, seed=3)
    codes = normal(2, 3, seed=4) * 3
    types, _ = decoder.sample(codes.repeat(8000, 1), torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = torch.stack([decoder.type_head(start_state(decoder, z)).softmax(0) for z in codes])
    seen = F.one_hot(types[:, 1], 4).double().view(8000, 2, 4).mean(0)
    torch.testing.assert_close(seen, first, atol=0.03, rtol=0)
    assert (first[0] - first[1]).abs().max() > 0.1


def test_what_is_drawn_is_a_graph_and_comes_from_the_generator():
    decoder, z = made(GraphDecoder), normal(300, 56)
    state = torch.get_rng_state()
    types, adjacency = decoder.sample(z, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert not adjacency.tril().any()
    again, other = (decoder.sample(z, torch.Generator().manual_seed(seed))[0] for seed in (0, 1))
    assert torch.equal(types, again) and not torch.equal(types, other)
    # Every graph ends once, and nothing but its end is without a way out.
    assert ((types == END).sum(1) == 1).all()
    sizes = (types != PADDING).sum(1)
    assert (types[torch.arange(300), sizes - 1] == END).all() and sizes.min() < 8
    assert torch.equal(adjacency.any(2), torch.arange(8) < sizes[:, None] - 1)


def test_codes_are_means_in_evaluation_and_noisy_in_training():
    latent, x = made(Latent, 4, 3, noise=0.5), normal(1, 4).expand(20000, 4)
    z, mean, log_variance = latent(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), 0.5 * (log_variance[0] / 2).exp(), atol=0, rtol=0.02)
    z, mean, _ = latent.eval()(x)
    assert torch.equal(z, mean)
    torch.testing.assert_close(mean, latent.mean(x))


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, log_variance = normal(5, 3), normal(5, 3, seed=1)
    p = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(p, torch.distributions.Normal(0, 1)).sum(-1)
    torch.testing.assert_close(kl(mean, log_variance), expected)


def test_sizes_are_those_of_the_published_model():
    # Of the published generator's 304,200 weights, 84,056 belong to a graph encoder that it does not use.
    assert sum(p.numel() for p in Generator().parameters()) == 304200 - 84056


def test_the_published_graph_of_a_cell():
    edges = [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (1, 5), (4, 5), (2, 6), (3, 6), (5, 6), (6, 7)]
    assert sorted(map(tuple, cellgraphs.topology().nonzero().tolist())) == sorted(edges)
    assert np.array_equal(cellgraphs.topology("line"), space.line_graph())


@pytest.mark.parametrize("kind", ["published", "line"])
def test_all_cells_become_graphs_and_return(kind):
    ops = space.all_ops()
    types = cellgraphs.types_of(ops)
    assert types.shape == (15625, 8) and types.dtype == torch.int64
    assert cellgraphs.valid(types, cellgraphs.topology(kind)).all()
    assert np.array_equal(cellgraphs.ops_of(types), ops)
    assert np.array_equal(cellgraphs.ops_of(cellgraphs.types_of(ops[7])), ops[7])


def test_graphs_that_are_no_cells_are_told_apart():
    types, adjacency = cellgraphs.types_of(space.random(1, 0)), cellgraphs.topology()[None]
    assert cellgraphs.valid(types, adjacency).item()
    for v, kind in [(0, 3), (3, START), (3, END), (7, 3), (7, PADDING)]:
        wrong = types.clone()
        wrong[0, v] = kind
        assert not cellgraphs.valid(wrong, adjacency).item()
    for u, v in [(0, 1), (6, 7), (3, 4), (4, 5)]:  # without them somebody has nothing to receive or send
        wrong = adjacency.clone()
        wrong[0, u, v] = False
        assert not cellgraphs.valid(types, wrong).item()
    more = adjacency.clone()
    more[0, 0, 7] = True
    assert cellgraphs.valid(types, more).item()


def fluent(certainty=50.0):
    """A decoder that knows what a cell is: operations, all alike, and every edge."""
    decoder = made(GraphDecoder, seed=1)
    with torch.no_grad():
        decoder.type_head[2].weight.zero_()
        decoder.type_head[2].bias.copy_(torch.tensor([-certainty] * 2 + [0.0] * 5))
        decoder.edge_head[2].bias.fill_(certainty)
    return decoder


def test_cells_are_drawn_until_enough_are_distinct():
    drawn = cellgraphs.draw(fluent(), torch.zeros(1, 56).double(), 2000, torch.Generator().manual_seed(0))
    numbers = space.index(drawn.ops)
    assert drawn.ops.shape == (2000, 6) and len(set(numbers.tolist())) == 2000
    assert drawn.valid == drawn.counted >= drawn.distinct >= 2000
    # Uniform over 15,625: so many are expected to be distinct.
    expected = 15625 * (1 - (1 - 1 / 15625) ** drawn.counted)
    assert drawn.distinct == pytest.approx(expected, rel=0.01)
    # In the order drawn, not that of the index.
    assert not np.array_equal(numbers, np.sort(numbers))
    assert np.bincount(drawn.ops.ravel(), minlength=5) / drawn.ops.size == pytest.approx(0.2, abs=0.02)


def test_cells_of_an_untrained_decoder_are_rare_but_found():
    drawn = cellgraphs.draw(made(GraphDecoder), normal(999, 56), 30, torch.Generator().manual_seed(0))
    assert len(drawn.ops) == 30 <= drawn.distinct <= drawn.valid < drawn.counted / 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GraphEncoder(hidden=0), "too small.*hidden=0"),
        (lambda: GraphDecoder(vertices=1), "too small.*vertices=1"),
        (lambda: GraphEncoder(5, 4)(*random_graphs(1, 5, 5)), "up to 4"),
        (lambda: GraphEncoder(5, 4)(torch.zeros(2, 3), torch.zeros(3, 3).bool()), "float32"),
        (lambda: GraphEncoder(5, 4)(torch.zeros(2, 3).long(), torch.zeros(2, 2).bool()), r"bool \(3, 3\)"),
        (lambda: GraphEncoder(3, 4)(torch.full((1, 2), 3), torch.zeros(2, 2).bool()), "0 to 2"),
        (lambda: GraphEncoder(3, 4)(torch.full((1, 2), -1), torch.zeros(2, 2).bool()), "0 to 2"),
        (lambda: GraphEncoder(3, 4)(torch.tensor([[0, 1]]), torch.eye(2).bool()), "earlier vertex"),
        (lambda: GraphDecoder().sample(torch.zeros(2, 3)), r"\(batch, 56\)"),
        (
            lambda: GraphDecoder().log_likelihood(
                torch.zeros(2, 56), torch.tensor([[0, 1]]), torch.eye(2).roll(1, 1).triu().bool()
            ),
            "2 codes",
        ),
        (
            lambda: GraphDecoder().log_likelihood(
                torch.zeros(1, 56), torch.tensor([[2, 1]]), torch.zeros(2, 2).bool()
            ),
            "first vertex",
        ),
        (lambda: cellgraphs.topology("star"), "no graph of a cell is called 'star'"),
        (lambda: cellgraphs.types_of([1, 2]), r"shape \(..., 6\)"),
        (lambda: cellgraphs.ops_of(torch.zeros(3, 7).long()), r"not \(3, 7\)"),
        (lambda: cellgraphs.ops_of(torch.zeros(8).long()), "operations between"),
        (lambda: cellgraphs.draw(fluent(), normal(1, 56), 0), "cannot draw 0"),
        (lambda: cellgraphs.draw(fluent(-50), normal(9, 56), 3), "1150 graphs hold 0 cells, 0 of them dis"),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused(call, words):
    with pytest.raises(NbpkgError, match=words):
        call()
