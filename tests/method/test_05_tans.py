"""Chapter 05's method cells against oracles: brute force, closed forms, finite differences, a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.apps.retrieve import prepare, read_weights, retrieve, write_weights
from nbpkg.nb201 import space as cells
from nbpkg.seeding import seeded
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.tasks import Collection, Task

CONV = int(cells.index(np.array([3, 3, 3, 3, 3, 3])))
MIXED = int(cells.index(np.array([1, 2, 3, 4, 0, 3])))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ch():
    return chapters.load("05_tans")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(classes=(0, 1, 2), **sizes):
    sizes = {"n_train": 20, "n_valid": 6, "n_test": 10, "resolution": 8} | sizes
    return Task(f"digits-{classes}", "digits", tuple(classes), **sizes)


# ------------------------------------------------------------------------ fine-tuning


def test_the_body_is_kept_and_the_head_is_new(ch):
    spec = CellNet(MIXED, 4)
    old = spec.build(7, 1)
    net = ch.with_head(spec, old.state_dict(), 3, 5)
    for (name, a), b in zip(net.state_dict().items(), old.state_dict().values(), strict=True):
        assert a.shape != b.shape if name.startswith("classifier") else torch.equal(a, b)
    assert torch.equal(net.classifier.weight, spec.build(3, 5).classifier.weight)
    same = ch.with_head(spec, spec.build(3, 1).state_dict(), 3, 5)  # as many classes: the head is new too
    assert torch.equal(same.classifier.weight, spec.build(3, 5).classifier.weight)
    pictures = torch.randn(4, 3, 8, 8, generator=rng())
    torch.testing.assert_close(net.eval().features(pictures), old.eval().features(pictures))


def test_fine_tuning_is_plain_sgd_with_a_cosine(ch):
    task, spec, marks = digits(), CellNet(MIXED, 4), (1, 2)
    found = ch.finetune(spec.build(3, 0), 0.05, task.data(), marks, seed=3, batch=20)
    net, (x, y) = spec.build(3, 0), ch.scaled(task.data(), "train")
    parameters, speed, g = list(net.parameters()), None, rng(3)
    rates = [0.05 * (1 + np.cos(np.pi * t / 6)) / 2 for t in range(6)]
    for epoch in range(2):
        for step, rows in enumerate(torch.randperm(60, generator=g).view(3, 20)):
            gradient = torch.autograd.grad(F.cross_entropy(net(x[rows]), y[rows]), parameters)
            gradient = [d + 5e-4 * p.detach() for d, p in zip(gradient, parameters, strict=True)]
            speed = gradient if speed is None else [0.9 * v + d for v, d in zip(speed, gradient, strict=True)]
            with torch.no_grad():
                for p, v in zip(parameters, speed, strict=True):
                    p -= rates[3 * epoch + step] * v
    net.eval()
    for column, split in enumerate(("valid", "test")):
        a, b = ch.scaled(task.data(), split)
        expected = 100 * (net(a).argmax(1) == b).float().mean()
        assert abs(float(found[-1, column]) - float(expected)) < 100 * 1.5 / len(b)
    again = ch.finetune_all(3, task, [{"spec": spec, "state": None, "rate": 0.05}] * 2, marks, batch=20)
    assert again.shape == (2, 2, 2) and torch.equal(again[0], again[1])


def test_a_trained_body_starts_ahead(ch):
    task, spec = digits(n_train=30), CellNet(CONV, 4)
    net = spec.build(3, 0)
    ch.finetune(net, 0.1, task.data(), (6,), 0, 10)
    starts = [{"spec": spec, "state": state, "rate": 0.03} for state in (net.state_dict(), None)]
    trained, scratch = ch.finetune_all(1, task, starts, (2,), batch=10)[:, -1, 1]
    assert trained > scratch


# ------------------------------------------------------------------------ codes


def test_topology_ignores_operations_that_lead_nowhere(ch):
    dead = [int(cells.index(np.array(ops))) for ops in ([3, 0, 0, 3, 0, 0], [2, 0, 0, 3, 0, 0])]
    t = ch.topology([CellNet(dead[0], 4), CellNet(dead[1], 4), CellNet(dead[0], 8), CellNet(CONV, 4)])
    assert t.shape == (4, 32) and torch.equal(t[0], t[1]) and set(t.unique().tolist()) == {0.0, 1.0}
    assert (t.sum(1) == 7).all() and not torch.equal(t[0], t[2]) and not torch.equal(t[0], t[3])


def test_the_functional_embedding_is_the_body_on_fixed_noise(ch):
    nets = [CellNet(MIXED, 4).build(5, 0), CellNet(CONV, 8).build(5, 1)]
    pictures = ch.noise(3, 8)
    assert torch.equal(pictures, ch.noise(3, 8)) and pictures.shape == (3, 3, 8, 8)
    f = ch.functional(nets, pictures)
    assert f.shape == (2, 3, 32) and (f[0, :, 16:] == 0).all()
    torch.testing.assert_close(f[0, :, :16], nets[0].eval().features(pictures))
    torch.testing.assert_close(nets[1].classifier(f[1]), nets[1](pictures))


def test_both_parts_of_a_code_weigh_the_same_whatever_their_scale(ch):
    t, f = torch.rand(6, 32, generator=rng()), torch.rand(6, 2, 32, generator=rng(1))
    u = ch.network_codes(t, f)
    torch.testing.assert_close(u.square().sum(1), torch.full((6,), 2.0))
    torch.testing.assert_close(u[:, :32].square().sum(1), torch.ones(6))
    torch.testing.assert_close(ch.network_codes(10 * t, 100 * f + 3), u, atol=1e-5, rtol=1e-4)
    assert torch.equal(torch.cat([ch.network_codes(t, f, part) for part in ("topology", "function")], 1), u)
    joint = ch.network_codes(t, 100 * f, "joint")
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(6))
    assert joint[:, :32].norm() < 0.1 * joint.norm()


# ------------------------------------------------------------------------ space and loss


def test_codes_lie_on_the_sphere_and_the_mean_commutes_with_the_encoder(ch):
    with seeded(0):
        some = ch.Space(9, 5, d=7)
    sets = torch.randn(4, 11, 9, generator=rng())
    torch.testing.assert_close(some.datasets(sets.mean(1)), F.normalize(some.query(sets).mean(1), dim=-1))
    q, m = some.datasets(sets.mean(1)), some.networks(torch.randn(4, 5, generator=rng(1)))
    torch.testing.assert_close(q.norm(dim=1), torch.ones(4))
    weight, bias = some.head.weight[0], some.head.bias
    expected = [
        1 / (1 + torch.exp(-(weight[:7] @ a + weight[7:] @ b + bias))) for a, b in zip(q, m, strict=True)
    ]
    torch.testing.assert_close(some.accuracy(q, m), torch.cat(expected))
    assert some.accuracy(q[0], m).shape == (4,)


def brute(S, hardest, margin=0.2):
    n, total = len(S), 0.0
    for k in range(n):
        for line in (S[:, k], S[k]):
            terms = [max(0.0, margin - float(S[k, k]) + float(line[i])) for i in range(n) if i != k]
            total += max(terms) if hardest else sum(terms)
    return total


@pytest.mark.parametrize("kind", ["all", "hardest"])
def test_the_hinge_is_its_definition(ch, kind):
    for seed in range(5):
        S = torch.randn(7, 7, generator=rng(seed), dtype=torch.float64).clamp(-1, 1)
        assert abs(float(ch.contrast(S, kind)) - brute(S, kind == "hardest")) < 1e-10


def test_softmax_is_its_definition(ch):
    S = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    e = (S / 0.1).exp()
    wanted = -(e.diagonal() / e.sum(0)).log().mean() - (e.diagonal() / e.sum(1)).log().mean()
    torch.testing.assert_close(ch.contrast(S, "softmax"), wanted)


@pytest.mark.parametrize("kind", ["all", "hardest", "softmax"])
def test_gradients_agree_with_finite_differences(ch, kind):
    S = torch.randn(5, 5, generator=rng(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda S: ch.contrast(S, kind), (S,))


def test_the_batched_step_is_the_plain_one(ch):
    sets, u, a = torch.randn(6, 4, 9, generator=rng()), torch.randn(6, 5, generator=rng(1)), torch.rand(6)
    spaces = []
    for _ in range(2):
        with seeded(0):
            spaces.append(ch.Space(9, 5, d=8))
    adams = [torch.optim.Adam(one.parameters(), 1e-2) for one in spaces]
    for _ in range(4):
        plain, _ = ch.plain_step(spaces[0], adams[0], sets, u, a)
        batched, _ = ch.step_of(spaces[1], adams[1], sets.mean(1), u, a, "all")
        torch.testing.assert_close(plain, batched, rtol=1e-4, atol=1e-5)
    for one, other in zip(spaces[0].parameters(), spaces[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_recall_is_counted_query_by_query(ch):
    with seeded(1):
        some = ch.Space(6, 5, d=4)
    x, u = torch.randn(8, 6, generator=rng()), torch.randn(8, 3, 5, generator=rng(1))
    q, m = some.datasets(x).detach(), some.networks(u).detach()
    ranks = np.zeros((3, 8))
    for e in range(3):
        for j in range(8):
            order = sorted(range(8), key=lambda i: -float(m[i, e] @ q[j]))
            ranks[e, j] = order.index(j)
    for k in (1, 5):
        wanted = 100 * (ranks < k).mean(0)
        np.testing.assert_allclose(ch.recall(some, x, u, k).numpy(), wanted, atol=1e-4)


def test_training_learns_pairs_and_accuracies_and_repeats(ch):
    n, g = 12, rng(5)
    centre, images_ = torch.randn(n, 10, generator=g), torch.randn(n, 20, generator=g)
    u = centre[:, None] + 0.1 * torch.randn(n, 4, 10, generator=g)
    a = torch.linspace(0.2, 0.9, n)[:, None].expand(n, 4)
    made = ch.train_space(0, images_, images_ + 0.05 * torch.randn(n, 20, generator=g), u, a, 150, every=25)
    some = ch.load_space(made)
    assert float(ch.recall(some, images_, u).mean()) > 95 and made["curve"].shape == (6, 3)
    assert made["curve"][-1, 1] < 0.5 * made["curve"][0, 1]
    guess = some.accuracy(some.datasets(images_), some.networks(u[:, 0]))
    assert np.corrcoef(guess, a[:, 0])[0, 1] > 0.5
    again = ch.train_space(0, images_, images_, u, a, 1, every=1)
    assert torch.equal(
        again["state"]["query.bias"],
        ch.train_space(0, images_, images_, u, a, 1, every=1)["state"]["query.bias"],
    )


# ------------------------------------------------------------------------ retrieval and rivals


def test_retrieval_is_a_sort_under_the_limit(ch):
    M, q = (
        F.normalize(torch.randn(30, 6, generator=rng()), dim=-1),
        F.normalize(torch.randn(6, generator=rng(1)), dim=-1),
    )

    def predict(q, m):
        return m[:, 0]

    found, predicted = ch.retrieve(q, M, predict)
    assert found.tolist() == sorted(range(30), key=lambda i: -float(M[i] @ q))[:10]
    assert torch.equal(predicted, M[found, 0])
    allowed = torch.arange(30) < 4
    under, _ = ch.retrieve(q, M, predict, allowed)
    assert sorted(under.tolist()) == [0, 1, 2, 3]
    chosen = ch.picks(found, predicted)
    assert len(chosen) == len(set(chosen)) == 4 and found[0].item() in chosen
    assert chosen[0] == found[predicted.argmax()].item()
    assert ch.picks(found[:1], predicted[:1]) == found[:1].tolist()


def test_one_dataset_cannot_change_the_order_of_predictions(ch):
    with seeded(2):
        some = ch.Space(6, 5, d=4)
    m, q = (
        some.networks(torch.randn(20, 5, generator=rng())),
        some.datasets(torch.randn(9, 6, generator=rng(1))),
    )
    orders = {tuple(some.accuracy(one, m).argsort().tolist()) for one in q}
    assert len(orders) == 1


def test_nearest_task_has_the_smallest_angle(ch):
    known = torch.tensor([[1.0, 0.0], [0.0, 9.0], [-1.0, -1.0]])
    assert ch.nearest_task(torch.tensor([0.1, 0.2]), known)[0] == 1
    at, cosine = ch.nearest_task(torch.tensor([3.0, 0.0]), known)
    assert at == 0 and abs(cosine - 1) < 1e-6
    x = ch.centred(known, known)
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(2))


def test_the_union_holds_each_class_once(ch):
    tasks = [digits((0, 1, 2)), digits((2, 1, 5))]
    data = ch.union_data(tasks)
    assert sorted(data.y_train.unique().tolist()) == [0, 1, 2, 3] and len(data.y_train) == 80
    parts = {label: tasks[0].data().x_train[tasks[0].data().y_train == label] for label in range(3)}
    assert torch.equal(data.x_train[data.y_train == 2], parts[2])
    torch.testing.assert_close(data.mean, (data.x_train.float() / 255).mean((0, 2, 3)))


def test_unseen_tasks_keep_every_held_out_source(ch):
    train, test = (
        (replace(digits((0, 1, 2)), name="a"),),
        [replace(digits(), name=f"b{i}", classes=(3, 4, 5), role="test", seed=i) for i in range(4)],
    )
    odd = Task("m", "mnist", tuple(range(10)), "test", n_train=1, n_valid=1, n_test=1)
    kept = ch.unseen_tasks(Collection(train, (), (*test, odd)), 2)
    assert [task.name for task in kept] == ["b0", "b1", "m"]


def test_epochs_to_a_target_are_interpolated(ch):
    marks = (1, 2, 4)
    assert ch.epochs_to([30.0, 40.0, 50.0], 45.0, marks, 10.0) == 3.0
    assert ch.epochs_to([30.0, 40.0, 50.0], 20.0, marks, 10.0) == 0.5
    assert ch.epochs_to([30.0, 40.0, 50.0], 10.0, marks, 10.0) == 0.0
    assert ch.epochs_to([30.0, 40.0, 50.0], 51.0, marks, 10.0) == np.inf
    assert ch.epochs_to([30.0, 20.0, 50.0], 30.0, marks, 10.0) == 1.0


def test_what_is_carried_is_small_and_from_every_task(ch):
    valid, params = torch.tensor([0.5, 0.9, 0.4, 0.8, 0.3, 0.95]), torch.tensor([5, 20, 6, 30, 4, 50])
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    kept = ch.shipped([None] * 6, owner, valid, params, small=6, budget=40)
    assert kept == [0, 1, 2, 4] and int(params[kept].sum()) <= 40


# ------------------------------------------------------------------------ for users


@pytest.fixture(scope="module")
def package(ch):
    """A package of five untrained networks around a random space."""
    specs = [CellNet(MIXED, 4), CellNet(CONV, 4), CellNet(CONV, 8), CellNet(MIXED, 8), CellNet(11, 4)]
    with seeded(0):
        some = ch.Space(480, 5, d=16)
    states = [dict(spec.build(3, i).state_dict()) for i, spec in enumerate(specs)]
    reference, codes = torch.randn(6, 480, generator=rng()), torch.randn(5, 5, generator=rng(1))
    names = [f"task {i}" for i in range(5)]
    return (
        ch.package(some.requires_grad_(False), specs, states, names, codes, "random-conv", 8, reference, 3),
        some,
        codes,
    )


def pictures(n=20):
    g = np.random.default_rng(0)
    return g.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8), np.arange(n) % 4


def test_the_call_for_users_is_the_method(ch, package, tmp_path):
    made, some, codes = package
    images_, labels = pictures()
    found = retrieve(images_, labels, weights=made, top=3)
    again = retrieve(images_, labels, weights=write_weights(tmp_path / "w.safetensors", made), top=3)
    assert [one.trained_on for one in again] == [one.trained_on for one in found] and len(found) == 3
    assert [one.predicted for one in found] == sorted((one.predicted for one in found), reverse=True)
    assert all(abs(a.score - b.score) < 5e-3 for a, b in zip(found, again, strict=True))
    from nbpkg.data.images import resize
    from nbpkg.zoo import features

    x = resize(torch.from_numpy(images_).permute(0, 3, 1, 2), 8)
    rows = torch.cat([torch.where(torch.from_numpy(labels) == k)[0] for k in range(4)])
    q = some.datasets(
        (features.get("random-conv").network(torch.device("cpu"))(x[rows]).mean(0) - made["mean"])
        / made["scale"]
    )
    places, predicted = ch.retrieve(q, some.networks(codes), some.accuracy, top=3)
    assert {f"task {i}" for i in places.tolist()} == {one.trained_on for one in found}
    assert abs(max(predicted.tolist()) - found[0].predicted) < 1e-4
    net = found[0].network(seed=1)
    assert net(prepare(x, found[0].resolution)).shape == (20, 4)
    at = int(found[0].trained_on.split()[1])
    torch.testing.assert_close(net.state_dict()["stem.0.weight"], made["states"][at]["stem.0.weight"])
    assert sum(p.numel() for p in net.parameters()) == found[0].params
    assert read_weights(tmp_path / "w.safetensors")["classes"] == 3


def test_limits_and_faults_are_named(package, tmp_path):
    made, _, _ = package
    from nbpkg.errors import NbpkgError

    images_, labels = pictures()
    smallest = min(one.params for one in retrieve(images_, labels, weights=made))
    assert [one.params for one in retrieve(images_, labels, max_params=smallest, weights=made)] == [smallest]
    with pytest.raises(NbpkgError, match="smallest has"):
        retrieve(images_, labels, max_params=10, weights=made)
    with pytest.raises(NbpkgError, match="top"):
        retrieve(images_, labels, top=0, weights=made)
    with pytest.raises(NbpkgError, match="two classes"):
        retrieve(images_, np.zeros(20, int), weights=made)
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(NbpkgError, match="no weights of a retrieval"):
        retrieve(images_, labels, weights=tmp_path / "broken")
    with pytest.raises(NbpkgError, match="no such weights"):
        read_weights(tmp_path / "absent")
