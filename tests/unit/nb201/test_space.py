"""The cell space against slow, independent definitions of the same things."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from tests.public import needs

EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
ALL = space.all_ops()
cells = st.tuples(*[st.integers(0, 4)] * 6)


def edges_of(string):
    """(operation, source, target) of each edge, read from the string alone."""
    for target, group in enumerate(string.split("+"), 1):
        for token in group.strip("|").split("|"):
            operation, source = token.split("~")
            yield operation, int(source), target


# --- strings and indices


def test_the_index_is_the_place_in_a_lexicographic_enumeration():
    enumerated = np.array(list(itertools.product(range(5), repeat=6)))
    assert space.N_CELLS == len(enumerated) == 15_625
    np.testing.assert_array_equal(ALL, enumerated)
    np.testing.assert_array_equal(space.index(enumerated), np.arange(15_625))
    assert ALL.dtype == np.int8


def test_strings_are_written_and_read_as_the_benchmark_writes_them():
    assert space.decode(space.encode(EXAMPLE)) == EXAMPLE
    strings = space.decode(ALL)
    assert len(set(strings)) == 15_625
    np.testing.assert_array_equal(space.encode(strings), ALL)
    # Every string names the edges in the order of EDGES, with the operations of its row.
    for row in (0, 1, 5, 777, 9_999, 15_624):
        named = list(edges_of(strings[row]))
        assert [(a, b) for _, a, b in named] == list(space.EDGES)
        assert [space.OPS.index(op) for op, _, _ in named] == ALL[row].tolist()


@given(cells)
def test_one_cell_round_trips_and_stays_one_cell(ops):
    string, number = space.decode(ops), space.index(ops)
    assert isinstance(string, str) and isinstance(number, int)
    assert tuple(space.encode(string)) == ops == tuple(space.ops_of(number))


def test_empty_lists_and_higher_shapes():
    assert space.encode([]).shape == (0, 6)
    assert space.decode(np.zeros((0, 6), int)) == []
    block = ALL[:12].reshape(3, 4, 6)
    np.testing.assert_array_equal(space.index(block), np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(space.ops_of(np.arange(12).reshape(3, 4)), block)


FAULTS = {
    "": "'' at character 0 must be '|'",
    EXAMPLE[:-1]: f"'~2' at character {len(EXAMPLE) - 3} must be '~2|'",
    EXAMPLE + "\n": f"must end at character {len(EXAMPLE)}",
    EXAMPLE.replace("avg", "max"): f"unknown operation 'max_pool_3x3' at character {EXAMPLE.index('avg')}",
    EXAMPLE.replace("~2", "~1"): f"'~1|' at character {EXAMPLE.rindex('~')} must be '~2|'",
    EXAMPLE.replace("avg_pool_3x3~1|", ""): "unknown operation '' at character 33",
    None: "is NoneType, not text",
    2.5: "is float, not text",
}


@pytest.mark.parametrize(("string", "fault"), FAULTS.items())
def test_a_string_that_is_no_cell_is_named_with_its_place_and_fault(string, fault):
    with pytest.raises(NbpkgError) as caught:
        space.encode([EXAMPLE, EXAMPLE, string])
    message = str(caught.value)
    assert message.startswith(f"architecture string 2 {string!r}: ") and fault in message


def test_arrays_that_are_no_cells_are_refused():
    for wrong in ([0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, -1], [0] * 5, [0.0] * 6, 3, [EXAMPLE] * 6):
        with pytest.raises(NbpkgError):
            space.index(wrong)
    for wrong in (-1, 15_625, 2.0, [0, 99_999]):
        with pytest.raises(NbpkgError):
            space.ops_of(wrong)
    with pytest.raises(NbpkgError, match="must be text"):
        space.encode([[0, 1, 2, 3, 4, 0]])


# --- the line graph


def line_graph_by_definition(edges):
    """Two operations are joined when the first one's target is the second one's source."""
    joined = np.zeros((8, 8), bool)
    for i, (a, b) in enumerate(edges, 1):
        joined[0, i] = a == 0
        joined[i, 7] = b == 3
        for j, (c, _) in enumerate(edges, 1):
            joined[i, j] = b == c
    return joined


def test_line_graph_is_the_definition():
    np.testing.assert_array_equal(space.line_graph(), line_graph_by_definition(space.EDGES))


def test_line_graph_in_string_order_is_the_one_that_help_fixes():
    expected = {0: {1, 2, 4}, 1: {3, 5}, 2: {6}, 3: {6}, 4: {7}, 5: {7}, 6: {7}, 7: set()}
    assert {i: set(np.flatnonzero(row).tolist()) for i, row in enumerate(space.line_graph())} == expected


# --- live and dead


PATHS = [((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3))]


def test_live_edges_and_dead_cells_by_enumerating_the_four_paths():
    names = list(space.EDGES)
    live = np.zeros((len(ALL), 6), bool)
    for path in PATHS:
        on_path = [names.index(edge) for edge in path]
        live[np.ix_((ALL[:, on_path] != 0).all(axis=1), on_path)] = True
    np.testing.assert_array_equal(space.live_edges(ALL), live)
    np.testing.assert_array_equal(space.is_dead(ALL), ~live.any(axis=1))
    assert space.is_dead(ALL).sum() == 341
    assert space.is_dead([0] * 6) is True and space.is_dead(space.encode(EXAMPLE)) is False


# --- isomorphism


def unique_string_by_definition(string):
    """The benchmark's recipe, node by node on one string."""
    nodes = {0: "0", 1: [], 2: [], 3: []}
    for operation, source, target in edges_of(string):
        operand = nodes[source] if source == 0 else "+".join(sorted(nodes[source]))
        if operation == "none" or operand == "#":
            operand = "#"
        elif operation != "skip_connect":
            operand = f"({operand})@{operation}"
        nodes[target].append(operand)
    return "+".join(sorted(nodes[3]))


def functions(cells, repeats=3):
    """What cells make of numbers when each operation is a fixed random map with f(0) = 0: (n, repeats)."""
    generator = np.random.default_rng(0)
    scale, bend = generator.uniform(0.5, 1.5, (2, 5, repeats))
    values = [np.broadcast_to(generator.uniform(1, 2, repeats), (len(cells), repeats))]
    for target in (1, 2, 3):
        total = np.zeros((len(cells), repeats))
        for k, (a, b) in enumerate(space.EDGES):
            if b == target:
                op, x = cells[:, k, None], values[a]
                mapped = np.sin(x * scale[cells[:, k]]) + bend[cells[:, k]] * x * x
                total += np.where(op == 0, 0, np.where(op == 1, x, mapped))
        values.append(total)
    return values[3]


def partition_size(*labels):
    return len(np.unique(np.stack(labels, axis=1), axis=0))


def test_there_are_6466_isomorphism_classes_labelled_without_gaps():
    labels = space.unique_class(ALL)
    assert labels.shape == (15_625,) and len(np.unique(labels)) == labels.max() + 1 == 6_466
    # Labels count up with the index: a class is first met after all smaller labels.
    _, first = np.unique(labels, return_index=True)
    assert (np.diff(first) > 0).all()


def test_isomorphism_strings_agree_with_the_recipe_on_a_sample():
    sample = space.random(600, seed=3)
    expected = [unique_string_by_definition(string) for string in space.decode(sample)]
    assert space.unique_string(sample) == expected
    _, by_text = np.unique(expected, return_inverse=True)
    assert partition_size(space.unique_class(sample), by_text) == len(set(expected))


def test_classes_are_closed_under_what_merges_cells():
    # A skip hands on its operand: conv then skip is skip then conv, is conv alone.
    none, skip, conv = 0, 1, 3
    alone = [none, none, none, conv, none, none]
    assert space.unique_class([conv, none, none, none, skip, none]) == space.unique_class(alone)
    assert space.unique_class([skip, none, none, none, conv, none]) == space.unique_class(alone)
    assert space.unique_class([conv, none, none, none, conv, none]) != space.unique_class(alone)
    # The order of the operands of one sum does not matter: pool + conv is conv + pool.
    assert space.unique_class([4, 0, 0, 3, 1, 0]) == space.unique_class([3, 0, 0, 4, 1, 0])
    # The benchmark's text tells a sum of sums by its brackets, (nothing + a) + b from (nothing + b) + a ...
    one, other = [2, 3, 0, 0, 1, 1], [3, 2, 0, 0, 1, 1]
    assert space.unique_class(one) != space.unique_class(other)
    # ... the function does not.
    assert space.function_class(one) == space.function_class(other)


def test_cells_of_one_class_compute_the_same_function_and_4930_functions_exist():
    values = np.round(functions(ALL), 9)
    _, by_value = np.unique(values, axis=0, return_inverse=True)
    by_value = by_value.ravel()
    assert by_value.max() + 1 == 4_930
    assert partition_size(by_value, space.unique_class(ALL)) == 6_466, "classes must refine functions"
    assert partition_size(by_value, space.function_class(ALL)) == 4_930
    assert partition_size(space.function_class(ALL)) == 4_930
    # A dead cell computes nothing, and no live one does.
    np.testing.assert_array_equal((values == 0).all(axis=1), space.is_dead(ALL))
    # What is not live can be left out without changing the function.
    pruned = np.where(space.live_edges(ALL), ALL, 0)
    np.testing.assert_array_equal(space.function_class(pruned), space.function_class(ALL))


@needs("nats-bench-landscape")
def test_isomorphism_classes_are_those_of_the_public_table():
    import pandas as pd

    from nbpkg import data

    public = pd.read_csv(data.path("nb201/nats_bench.csv"), usecols=["ArchitectureString", "UniqueString"])
    ops = space.encode(public["ArchitectureString"])
    assert space.unique_string(ops) == public["UniqueString"].tolist()
    by_text, _ = pd.factorize(public["UniqueString"])
    assert partition_size(by_text) == partition_size(by_text, space.unique_class(ops)) == 6_466


# --- counts, neighbours, draws


@given(st.lists(cells, min_size=1, max_size=5))
def test_counts(rows):
    counted = space.counts(rows)
    assert counted.tolist() == [[row.count(op) for op in range(5)] for row in rows]


@given(cells)
def test_neighbours_are_the_24_cells_at_distance_one(ops):
    found = {tuple(row) for row in space.neighbours(ops).tolist()}
    expected = {(*ops[:k], op, *ops[k + 1 :]) for k in range(6) for op in range(5)} - {ops}
    assert found == expected and len(found) == 24
    assert space.neighbours([ops, ops]).shape == (2, 24, 6)


def test_draws_are_distinct_repeatable_and_cover_the_space():
    np.testing.assert_array_equal(space.random(50, seed=1), space.random(50, seed=1))
    assert not np.array_equal(space.random(50, seed=1), space.random(50, seed=2))
    everything = np.sort(space.index(space.random(space.N_CELLS, seed=0)))
    np.testing.assert_array_equal(everything, np.arange(space.N_CELLS))
    assert len(np.unique(space.index(space.random(20_000, seed=0, distinct=False)))) < space.N_CELLS
    for n, distinct in ((15_626, True), (-1, False)):
        with pytest.raises(NbpkgError, match="cannot draw"):
            space.random(n, seed=0, distinct=distinct)
