"""Chapter 06's method cells against oracles: closed forms, brute force, the network itself."""

import math

import numpy as np
import pytest
import torch

from nbpkg import chapters
from nbpkg.nets.tinycnn import tinycnn


@pytest.fixture(scope="module")
def ch():
    torch.set_num_threads(1)  # as the chapter has it: for small tensors more are slower
    return chapters.load("06_weight_generation")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some_rows(ch, n=3, classes=4):
    nets = [tinycnn(classes, seed=seed) for seed in range(n)]
    return nets, torch.stack([ch.flat(net.state_dict()) for net in nets]), ch.shapes_of(classes)


# ------------------------------------------------------------------------ rows and tokens


def test_networks_side_by_side_are_the_networks(ch):
    nets, W, shapes = some_rows(ch)
    nets, W = [net.double() for net in nets], W.double()
    shared = torch.randn(5, 3, 16, 16, generator=rng(), dtype=torch.float64)
    expected = torch.stack([net(shared) for net in nets])
    torch.testing.assert_close(ch.run_many(W, shared, shapes), expected)
    own = torch.randn(3, 5, 3, 8, 8, generator=rng(1), dtype=torch.float64)
    expected = torch.stack([net(x) for net, x in zip(nets, own, strict=True)])
    torch.testing.assert_close(ch.run_many(W, own, shapes), expected)


def test_right_does_not_depend_on_the_chunk(ch):
    _, W, shapes = some_rows(ch, 5)
    x, y = torch.randn(30, 3, 8, 8, generator=rng()), torch.arange(30) % 4
    assert torch.equal(ch.right(W, x, y, shapes, 2), ch.right(W, x, y, shapes, 100))


def test_tokens_hold_each_number_once_with_its_neurons_bias(ch):
    _, W, shapes = some_rows(ch)
    places = ch.token_places(shapes)
    assert sorted(places[places >= 0].tolist()) == list(range(W.shape[1]))
    tokens = ch.to_tokens(W, places)
    assert torch.equal(ch.from_tokens(tokens, places), W) and (tokens[:, places < 0] == 0).all()
    arrays = ch.cut(W, shapes)
    # The third token of the second layer: all that enters its third channel, the bias last.
    token, inputs = tokens[1, 8 + 2], 8 * 9
    assert torch.equal(token[:inputs], arrays[2][1, 2].flatten()) and token[inputs] == arrays[3][1, 2]


def test_every_layer_is_standardised_by_itself(ch):
    _, W, shapes = some_rows(ch, 40)
    mean, std = ch.layer_scale(W, shapes)
    x = (W - mean) / std
    for part in x.split([math.prod(shape) for shape in shapes], -1):
        assert abs(part.mean()) < 1e-4 and abs(part.std() - 1) < 1e-3
    assert len(std.unique()) <= len(shapes)


# ------------------------------------------------------------------------ the autoencoder


def test_the_loss_is_its_closed_form(ch):
    _, W, shapes = some_rows(ch, 6)
    torch.manual_seed(0)
    vae = ch.WeightVAE(ch.token_places(shapes), d=5).double()
    x = W.double()
    mean, log_var = vae.encode(x)
    normal = torch.distributions.Normal(mean, (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    with_kl, error = ch.vae_loss(vae, x, rng(3), 1.0)
    without, same = ch.vae_loss(vae, x, rng(3), 0.0)
    torch.testing.assert_close(with_kl - without, kl)
    torch.testing.assert_close(error, same)
    z = mean + (log_var / 2).exp() * torch.randn(mean.shape, generator=rng(3))
    torch.testing.assert_close(error, (vae.decode(z) - x).square().sum() / x.numel())


def test_padding_gets_no_gradient_and_changes_nothing(ch):
    _, W, shapes = some_rows(ch, 4)
    places = ch.token_places(shapes)
    torch.manual_seed(0)
    vae = ch.WeightVAE(places, d=3)
    loss, _ = ch.vae_loss(vae, W, rng(), 0.1)
    loss.backward()
    assert (vae.embed.grad[places < 0] == 0).all() and (vae.bias.grad[places < 0] == 0).all()
    before = vae.encode(W)[0]
    with torch.no_grad():
        vae.embed[places < 0] = 7.0
    assert torch.equal(vae.encode(W)[0], before)


def test_networks_survive_an_autoencoder_that_is_wide_enough(ch):
    _, W, shapes = some_rows(ch, 4)
    made = ch.train_vae(0, W, shapes, d=8, steps=120, beta=1e-4)
    mean, std = ch.latents(made, W, shapes)
    assert (std > 0).all() and made["curve"][-1] < 0.1 * made["curve"][0]
    again = ch.decoded(made, mean, shapes)
    x = torch.randn(200, 3, 8, 8, generator=rng())
    same = (ch.run_many(W, x, shapes).argmax(-1) == ch.run_many(again, x, shapes).argmax(-1)).float().mean()
    assert same > 0.9


# ------------------------------------------------------------------------ the dataset as a condition


def test_drawn_sets_are_different_images_of_their_dataset_and_class(ch):
    bank = torch.arange(3 * 4 * 7).view(3, 4, 7, 1).float()
    sets = ch.draw_sets(bank, torch.tensor([2, 0, 2]), rng())
    assert sets.shape == (3, 4, 5, 1)
    for row, task in zip(sets, (2, 0, 2), strict=True):
        for label in range(4):
            drawn = row[label, :, 0].tolist()
            assert len(set(drawn)) == 5 and set(drawn) <= set(bank[task, label, :, 0].tolist())
    assert not torch.equal(sets[0], sets[2])


def test_one_encoder_knows_the_order_of_classes_and_the_other_cannot(ch):
    sets = torch.randn(2, 4, 5, 6, generator=rng())
    torch.manual_seed(0)
    ordered, free = ch.encoder_of("ordered", 4, 6, 8), ch.encoder_of("order-free", 4, 6, 8)
    moved = sets.roll(1, 1)
    assert not torch.allclose(ordered(moved), ordered(sets), atol=1e-3)
    torch.testing.assert_close(free(moved), free(sets), atol=1e-5, rtol=1e-4)
    for encoder in (ordered, free):  # neither knows the order of the images
        torch.testing.assert_close(encoder(sets.flip(2)), encoder(sets), atol=1e-5, rtol=1e-4)


def test_entries_of_one_dataset_share_their_condition(ch):
    bank = torch.randn(3, 4, 7, 6, generator=rng())
    torch.manual_seed(0)
    c = ch.encoded(ch.encoder_of("ordered", 4, 6, 8), bank, torch.tensor([1, 2, 1]), rng())
    assert torch.equal(c[0], c[2]) and not torch.equal(c[0], c[1])


def test_alignment_is_the_mean_of_two_soft_cross_entropies(ch):
    D, W = (torch.randn(5, 4, generator=rng(s), dtype=torch.float64, requires_grad=True) for s in (0, 1))
    d, w = (x.detach().numpy() / 4**0.25 for x in (D, W))
    soft = lambda m: np.exp(m) / np.exp(m).sum(1, keepdims=True)  # noqa: E731
    target = soft((d @ d.T + w @ w.T) / 2)
    rows = -(target * np.log(soft(w @ d.T))).sum(1).mean()
    columns = -(target.T * np.log(soft(d @ w.T))).sum(1).mean()
    assert ch.align_loss(D, W).item() == pytest.approx((rows + columns) / 2)
    # The targets are constants: no gradient goes through them.
    (by_D,) = torch.autograd.grad(ch.align_loss(D, W), D)
    h, moved, total = 1e-6, D.detach().clone(), 0.0
    moved[0, 0] += h
    fixed = lambda x: (  # noqa: E731
        -(target * np.log(soft(w @ x.T))).sum(1).mean() - (target.T * np.log(soft(x @ w.T))).sum(1).mean()
    ) / 2
    total = (fixed(moved.numpy() / 4**0.25) - fixed(d)) / h
    assert by_D[0, 0].item() == pytest.approx(total, abs=1e-5)


def test_classes_are_matched_at_the_least_cost(ch):
    import itertools

    new, old = torch.randn(4, 3, generator=rng(0)), torch.randn(4, 3, generator=rng(1))
    order, cost = ch.matched(new, old)
    brute = min(
        itertools.permutations(range(4)),
        key=lambda p: sum(float((new[i] - old[p[i]]).square().sum()) for i in range(4)),
    )
    assert tuple(order.tolist()) == brute
    assert cost == pytest.approx(float((new - old[order]).square().sum(-1).mean()), rel=1e-5)


def test_renamed_classes_are_the_same_network(ch):
    _, W, shapes = some_rows(ch)
    x, order = torch.randn(6, 3, 8, 8, generator=rng()), torch.tensor([3, 1, 0, 2])
    expected = ch.run_many(W, x, shapes)[..., order]
    torch.testing.assert_close(ch.run_many(ch.rename(W, order, shapes), x, shapes), expected)


# ------------------------------------------------------------------------ diffusion


def test_the_schedule_is_the_published_one(ch):
    abar = ch.signal()
    betas = np.linspace(np.sqrt(0.0015), np.sqrt(0.0155), 1024) ** 2
    np.testing.assert_allclose(abar.numpy(), np.cumprod(1 - betas), rtol=1e-10)
    assert abar[0] == pytest.approx(1 - 0.0015) and abar[-1] < 1e-3


def test_noise_keeps_the_variance_of_standard_latents(ch):
    abar = ch.signal()
    z, noise = (torch.randn(20_000, 2, generator=rng(s)) for s in (0, 1))
    for t in (0, 300, 1023):
        out = ch.noised(z, torch.full((20_000,), t), noise, abar)
        assert abs(out.var() - 1) < 0.03


@pytest.mark.parametrize("ancestral", [False, True])
def test_the_sampler_with_an_oracle_gives_the_distribution_back(ch, ancestral):
    abar = ch.signal()
    mean, var = torch.tensor([2.0, -1.0]), torch.tensor([0.09, 1.0])

    def noise(z, t):
        a = abar[t][:, None].float()
        return (1 - a).sqrt() * (z - a.sqrt() * mean) / (a * var + 1 - a)

    g = rng(1)
    start = torch.randn(6_000, 2, generator=g)
    z = ch.ddim(noise, start, abar, 1024 if ancestral else 200, g if ancestral else None)
    assert (z.mean(0) - mean).abs().max() < 0.05 and (z.var(0) - var).abs().max() < 0.08


def test_a_step_of_the_ancestral_sampler_has_the_posteriors_mean_and_variance(ch):
    abar = ch.signal()[[200, 700]]
    a, b = float(abar[1]), float(abar[0])
    z, clean = 0.7, 0.3
    eps = (z - math.sqrt(a) * clean) / math.sqrt(1 - a)
    many = torch.full((200_000, 1), z)
    seen = []
    # The second call, at the last time, only divides the noise out again: here it adds none.
    ch.ddim(lambda x, t: seen.append(x) or torch.full_like(x, eps), many, abar, 2, rng())
    ratio = a / b
    mean = (math.sqrt(b) * (1 - ratio) * clean + math.sqrt(ratio) * (1 - b) * z) / (1 - a)
    var = (1 - b) / (1 - a) * (1 - ratio)
    assert float(seen[1].mean()) == pytest.approx(mean, abs=4e-3)
    assert float(seen[1].var()) == pytest.approx(var, rel=0.02)


def test_guidance_extrapolates_between_two_predictions(ch):
    torch.manual_seed(0)
    denoiser = ch.Denoiser(3, 4, width=8, blocks=1)
    torch.nn.init.normal_(denoiser.null)
    z, t, c = torch.randn(5, 3), torch.tensor([0, 10, 200, 500, 1023]), torch.randn(5, 4)
    plain, null = denoiser(z, t, c), denoiser(z, t, denoiser.null.expand(5, -1))
    torch.testing.assert_close(ch.guided(denoiser, c, 0.0)(z, t), plain)
    torch.testing.assert_close(ch.guided(denoiser, None, 3.0)(z, t), null)
    torch.testing.assert_close(ch.guided(denoiser, c, 1.5)(z, t), 2.5 * plain - 1.5 * null)


def two_places(ch):
    """Two datasets, each with latents at two opposite places."""
    places = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]], [[0.0, 2.0], [0.0, -2.0]]])
    mean = places.repeat_interleave(20, 1).flatten(0, 1)
    tasks = torch.arange(2).repeat_interleave(40)
    bank = torch.randn(2, 3, 8, 4, generator=rng(5)) * 0.1 + torch.tensor([1.0, -1.0])[:, None, None, None]
    return places, mean, tasks, bank


def test_the_generator_finds_both_places_and_the_regression_their_middle(ch):
    places, mean, tasks, bank = two_places(ch)
    made = ch.train_generator(0, mean, torch.full_like(mean, 0.05), bank, tasks, "ordered", 350)
    rival = ch.train_regression(0, mean, bank, tasks, 150)
    for task in (0, 1):
        sets = ch.draw_sets(bank, torch.full((100,), task), rng(task))
        z = ch.sample_latents(made, "ordered", sets, rng(2))
        distance = torch.cdist(z, places[task])
        assert distance.min(1).values.median() < 0.4
        assert 0.15 < (distance.argmin(1) == 0).float().mean() < 0.85
        assert ch.regressed(rival, sets).abs().max() < 0.8


@pytest.mark.parametrize("kind", ["order-free", "none", "row"])
def test_every_kind_trains_and_samples(ch, kind):
    mean, bank = torch.randn(12, 8, generator=rng()), torch.randn(3, 4, 6, 5, generator=rng(1))
    tasks = torch.arange(12) % 3
    made = ch.train_generator(1, mean, torch.full_like(mean, 0.1), bank, tasks, kind, 20)
    sets = ch.draw_sets(bank, torch.tensor([0, 1]), rng())
    z = ch.sample_latents(made, kind, sets, rng(), guidance=0.5, steps=5)
    assert z.shape == (2, 8) and torch.isfinite(z).all()


# ------------------------------------------------------------------------ judging


def test_fine_tuning_is_sgd_with_momentum(ch):
    nets, W, shapes = some_rows(ch, 2)
    x, y = torch.randn(16, 3, 8, 8, generator=rng()), torch.arange(16) % 4
    batches = ch.shuffled_batches(16, 8, 5, 0)
    got = []
    original = ch.right
    try:  # what is judged is the row of weights itself
        ch.finetune.__globals__["right"] = lambda W, *a: got.append(W.clone()) or original(W, *a)
        ch.finetune(W, torch.tensor([0.05, 0.01]), x, y, batches, (x, y), (5,), shapes)
    finally:
        ch.finetune.__globals__["right"] = original
    for g, rate in ((0, 0.05), (1, 0.01)):
        optimiser = torch.optim.SGD(nets[g].parameters(), rate, 0.9)
        for rows in batches:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(nets[g](x[rows]), y[rows]).backward()
            optimiser.step()
        torch.testing.assert_close(got[-1][g], ch.flat(nets[g].state_dict()), atol=1e-5, rtol=1e-4)


def test_batches_are_whole_passes(ch):
    batches = ch.shuffled_batches(10, 5, 5, 1)
    assert batches.shape == (5, 5)
    assert sorted(batches[:2].flatten().tolist()) == list(range(10))


def test_overlap_counts_shared_errors(ch):
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    expected = torch.tensor([[1 / 3, 0.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(ch.overlap(a, b), expected)


def test_distances_are_per_number(ch):
    base = torch.randn(6, 50, generator=rng())
    assert ch.nearest(base + 0.3, base).numpy() == pytest.approx(np.full(6, 0.3), rel=1e-3)
    assert ch.nearest(base[:2], base).max() < 1e-3


def test_controls_are_made_of_the_networks_they_should_be(ch):
    W = torch.randn(8, 30, generator=rng())
    start, valid = torch.tensor([0, 0, 0, 0, 3, 3, 3, 3]), torch.arange(8.0)
    found = ch.weight_controls(W, start, valid, 200, 0.0, torch.ones(30), rng())
    assert torch.equal(found["best + noise"], W[7].expand(200, -1))
    torch.testing.assert_close(found["average of a start"][1], W[4:].mean(0))
    torch.testing.assert_close(found["average of all"][5], W.mean(0))
    assert all((row == W).all(1).any() for row in found["zoo network"])
    assert {tuple(row.tolist()) for row in found["zoo network"]} == {tuple(row.tolist()) for row in W}
    many = ch.weight_controls(W, start, valid, 4000, 0.5, torch.ones(30), rng())
    assert abs((many["best + noise"] - W[7]).std() - 0.5) < 0.01
    assert (many["Gaussian of all"].std(0) - W.std(0)).abs().max() < 0.1


def test_the_kernel_estimate_stays_with_the_best(ch):
    z, valid = torch.randn(10, 3, generator=rng()), torch.arange(10.0)
    draws = ch.kde_latents(z, valid, 300, rng(), share=0.3, width=0.0)
    assert {tuple(row.tolist()) for row in draws} == {tuple(row.tolist()) for row in z[7:]}


def test_principal_components_are_fitted_on_what_is_given(ch):
    fitted = torch.randn(200, 6, generator=rng()) * torch.tensor([5.0, 2, 1, 0.1, 0.1, 0.1])
    out = ch.compress(fitted, fitted, 3)
    assert out.mean(0).abs().max() < 1e-4
    cross = out.T @ out / 200
    assert (cross - cross.diag().diag()).abs().max() < 1e-4
    assert float(cross.diag().mean()) == pytest.approx(1, rel=1e-3)


def test_ridge_heads_solve_their_normal_equations(ch):
    x, y = torch.randn(30, 5, generator=rng(), dtype=torch.float64), torch.arange(30) % 3
    rows = ch.ridge_head(x, y, 3, penalty=0.2)
    x1 = torch.cat([x, torch.ones(30, 1, dtype=torch.float64)], 1)
    target = torch.nn.functional.one_hot(y, 3).double() - 1 / 3
    left = x1.T @ x1 / 30 + 0.2 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(rows.T, torch.linalg.solve(left, x1.T @ target / 30))
    assert torch.allclose(ch.head_logits(rows, x), x1 @ rows.T)


def test_rolled_sets_put_each_class_first_once(ch):
    bank = torch.arange(2 * 3 * 2 * 1).view(2, 3, 2, 1)
    out = ch.rolled(bank)
    assert out.shape == (6, 3, 2, 1)
    assert [out[i, 0].tolist() for i in range(6)] == [bank[t, c].tolist() for t in range(2) for c in range(3)]


def test_nearest_means_are_nearest(ch):
    shots, x = torch.randn(4, 5, 3, generator=rng()), torch.randn(20, 3, generator=rng(1))
    expected = torch.cdist(x, shots.mean(1)).argmin(1)
    assert torch.equal(ch.nearest_mean(shots, x).argmax(1), expected)
