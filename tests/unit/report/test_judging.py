"""Verdicts by hand, by brute force and by properties: what reverses a claim must show."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg import report
from nbpkg.errors import NbpkgError
from nbpkg.report import claims, judging, pairs
from nbpkg.report.location import Location

HEAD = '[smallest]\nscore = { size = 0.05, why = "a fifth of the gap of the paper" }\n'
CLAIM = """
[[claim]]
id = "%s"
says = "The method ranks better than the rule."
whose = "paper, Table 2"
question = "nothing"
frame = "scores"
value = "score"
a = "method == 'ours'"
b = "method == 'rule'"
rule = "%s"
unit = "seed"
n = %d
"""


def plan(*parts, head=HEAD):
    return claims.parse(head + "\n".join(parts), "03_help")


def one(rule="a > b", n=5, more=""):
    return plan(CLAIM % ("one", rule, n) + more)


def rows(gains, seeds=None, **more):
    """Two methods by seed, the rule at .5, ours above it by `gains`."""
    frame = pd.DataFrame({"seed": range(len(gains)) if seeds is None else seeds})
    parts = [frame.assign(method="rule", score=0.5), frame.assign(method="ours", score=0.5 + np.array(gains))]
    return {"scores": pd.concat(parts, ignore_index=True).assign(**more)}


def verdict(frames, plan):
    return report.judge(frames, plan).iloc[0]["verdict"]


GAIN, LOSS = [0.2, 0.21, 0.19, 0.22, 0.18], [-0.2, -0.21, -0.19, -0.22, -0.18]
TINY = [1e-3, -1e-3, 0, 2e-3, -2e-3]
WIDE = [0.5, -0.4, 0.3, -0.2, 0.1]


@pytest.mark.parametrize(
    ("rule", "on_gain", "on_loss", "on_tiny"),
    [
        ("a > b", "reproduced", "contradicted", "no effect"),
        ("a < b", "contradicted", "reproduced", "no effect"),
        ("a >= b", "reproduced", "contradicted", "reproduced"),
        ("a <= b", "contradicted", "reproduced", "reproduced"),
        ("a = b", "contradicted", "contradicted", "reproduced"),
    ],
)
def test_the_verdicts_of_every_rule(rule, on_gain, on_loss, on_tiny):
    found = [verdict(rows(gains), one(rule)) for gains in (GAIN, LOSS, TINY, WIDE)]
    assert found == [on_gain, on_loss, on_tiny, "undecided"]


def test_the_interval_is_that_of_the_paired_t_test():
    judged = report.judge(rows(WIDE), one()).iloc[0]
    expected = scipy.stats.ttest_1samp(WIDE, 0)
    assert np.isclose(judged["p"], expected.pvalue)
    assert np.allclose([judged["low"], judged["high"]], expected.confidence_interval())
    assert (judged["n"], judged["smallest"], judged["level"]) == (5, 0.05, 0.95)


def test_equal_repetitions_settle_nothing_and_exact_quantities_do():
    assert verdict(rows([0.2] * 5), one()) == "undecided"
    exact = plan(CLAIM.replace('unit = "seed"', 'unit = "exact"') % ("one", "a > b", 5))
    assert verdict(rows([0.2]), exact) == "reproduced"
    assert verdict(rows([-0.2]), exact) == "contradicted"
    assert verdict(rows([0.01]), exact) == "no effect"


def test_only_the_planned_number_of_units_is_judged():
    assert verdict(rows(GAIN[:4]), one()) == "undecided"
    assert verdict(rows(GAIN + GAIN), one()) == "undecided"
    judged = report.judge(rows(GAIN + GAIN), one(more="n2 = 10")).iloc[0]
    assert judged["verdict"] == "reproduced" and judged["level"] == 0.975  # two looks, half the error each
    assert report.judge(rows(GAIN), one(more="n2 = 10")).iloc[0]["level"] == 0.975


def test_a_premise_that_is_not_certain_leaves_the_claim_untested():
    premise = 'premise = { says = "the method learns", a = "method == \'ours\'", b = %s, rule = "a > b" }'
    assert verdict(rows(GAIN), one(more=premise % 0.5)) == "reproduced"
    for level, word in ((0.9, "contradicted"), (0.7, "no effect")):
        judged = report.judge(rows(GAIN), one(more=premise % level)).iloc[0]
        assert judged["verdict"] == "not tested"
        assert f"the premise is {word}: the method learns" in judged["note"]


def test_what_was_seen_in_design_is_said():
    judged = report.judge(rows(GAIN), one(more='seen = "the test devices"'))
    made, metrics = judging.entries(judged, one(more='seen = "the test devices"'))
    assert made[0].seen == "the test devices" and "seen in design" in made[0].note
    assert (metrics["one"].n, made[0].question, made[0].whose) == (5, "nothing", "paper, Table 2")


def test_cases_share_a_verdict_by_the_rules_of_the_book():
    def combined(**gains):
        frames = [rows(g, space=space)["scores"] for space, g in gains.items()]
        claim = one(more=f"each = {{ space = {list(gains)} }}")
        judged = report.judge({"scores": pd.concat(frames)}, claim)
        assert list(judged["case"]) == ["", *gains]
        return judged.iloc[0]["verdict"]

    assert combined(x=GAIN, y=GAIN) == "reproduced"
    assert combined(x=GAIN, y=LOSS) == "partly"
    assert combined(x=GAIN, y=WIDE) == "partly"
    assert combined(x=LOSS, y=WIDE) == "contradicted"  # one wholly on the other side, none on this
    assert combined(x=LOSS, y=[0.02, 0.03, 0.04, 0.03, 0.02]) == "undecided"  # the second lies on this side
    assert combined(x=TINY, y=WIDE) == "undecided"
    assert combined(x=TINY, y=TINY) == "no effect"


def test_holm_runs_within_one_question():
    weak = [0.2, 0.02, 0.3, 0.05, 0.15]  # p = .046
    frames = rows(weak)
    assert verdict(frames, one()) == "reproduced"
    several = plan(*(CLAIM % (name, "a > b", 5) for name in ("one", "two", "three")))
    judged = report.judge(frames, several)
    assert set(judged["verdict"]) == {"undecided"} and np.allclose(judged["level"], 1 - 0.05 / 3)
    apart = plan(CLAIM % ("one", "a > b", 5), (CLAIM % ("two", "a > b", 5)).replace('"nothing"', '"new"'))
    assert set(report.judge(frames, apart)["verdict"]) == {"reproduced"}


def test_holm_steps_down():
    cases = [judging._Case({"unit": "seed", "rule": "a > b", "n": 5}, "", {}, 0.0, np.array(g)) for g in
             (GAIN, [0.2, 0.05, 0.3, 0.1, 0.15], WIDE)]  # fmt: skip
    judging._holm(cases)
    assert np.allclose([0.05 / case.alpha for case in cases], [3, 2, 1])
    assert [case.verdict for case in cases] == ["reproduced", "reproduced", "undecided"]


def test_pairs_are_made_by_the_unit_and_what_both_sides_share():
    # Devices differ by much more than the methods do, and one side has no draws.
    grid = pd.MultiIndex.from_product([range(5), ["p", "q"], range(3)], names=["seed", "device", "draw"])
    ours = grid.to_frame(index=False).assign(method="ours")
    ours["score"] = ours["device"].map({"p": 0.0, "q": 10.0}) + 0.1 + 0.001 * ours["seed"]
    rule = pd.DataFrame({"device": ["p", "q"], "method": "rule", "score": [0.0, 10.0]})
    frames = {"scores": pd.concat([ours, rule], ignore_index=True)}
    judged = report.judge(frames, one()).iloc[0]
    assert judged["verdict"] == "reproduced" and np.isclose(judged["estimate"], 0.102)
    lost = frames["scores"].drop(frames["scores"].query("device == 'q' and method == 'rule'").index)
    with pytest.raises(NbpkgError, match="differ in the values of device"):
        report.judge({"scores": lost}, one())
    paired = rows(GAIN, seeds=[0, 1, 2, 3, 4])["scores"]
    with pytest.raises(NbpkgError, match=r"only a or only b has rows of \{'seed': 4\}"):
        report.judge({"scores": paired.query("method == 'ours' or seed < 4")}, one())


def test_what_is_not_there_is_named():
    with pytest.raises(NbpkgError, match="claim one: there is no frame 'scores'"):
        report.judge({}, one())
    with pytest.raises(NbpkgError, match="has no rows"):
        report.judge({"scores": rows(GAIN)["scores"].query("method == 'rule'")}, one())
    with pytest.raises(NbpkgError, match="no column seed"):
        report.judge({"scores": rows(GAIN)["scores"].drop(columns="seed")}, one())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rule = \"a > b\"", "rule = \"a is better\""), "claim/0/rule"),
        (('whose = "paper, Table 2"', 'whose = "the paper"'), "claim/0/whose"),
        (('value = "score"', 'value = "loss"'), "no smallest effect is given for loss"),
        (("n = 5", "n = 5\nn2 = 4"), "n2 must be more than n"),
        (('unit = "seed"\n', ""), "lacks unit"),
        (("n = 5\n", ""), "lacks n"),
        (("n = 5", "n = 5\nthreshold = 2"), "threshold"),
        (("size = 0.05, ", ""), "size"),
    ],
)
def test_a_wrong_claims_file_is_refused_by_the_field(change, said):
    text = HEAD + CLAIM % ("one", "a > b", 5)
    assert claims.parse(text, "03_help").claims
    with pytest.raises(NbpkgError, match=said):
        claims.parse(text.replace(*change), "03_help")


def test_the_hash_of_a_claims_file_holds_what_binds():
    text = HEAD + CLAIM % ("one", "a > b", 5)
    first = claims.parse(text, "03_help").sha256
    free = text.replace("n = 5", "n   = 5  # five") + '[[deviation]]\ntext = "x"\neffect = "none"\n'
    assert claims.parse(free, "03_help").sha256 == first
    for change in (("a > b", "a < b"), ("0.05", "0.06"), ("n = 5", "n = 6"), ("better", "no worse")):
        assert claims.parse(text.replace(*change), "03_help").sha256 != first


# ---------------------------------------------------------------- rank tests against brute force

VALUES = st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True).map(lambda x: np.array(x) / 10)


@given(VALUES, st.sampled_from(["t", "sign", "rank"]), st.sampled_from([0.01, 0.05, 0.2]))
@settings(deadline=None)
def test_p_values_and_intervals_agree(values, test, alpha):
    at = Location(values, test)
    low, high = at.interval(alpha)
    p = min(1.0, 2 * min(at.tail(0, 1), at.tail(0, -1)))
    if abs(p - alpha) > 1e-9:
        assert (p < alpha) == (low > 0 or high < 0)


@given(VALUES.filter(lambda x: len(set(np.abs(x))) == len(x) and 0 not in x))
@settings(deadline=None)
def test_rank_tests_are_those_of_scipy(values):
    rank, sign = Location(values, "rank"), Location(values, "sign")
    expected = scipy.stats.wilcoxon(values, alternative="greater", method="exact").pvalue
    assert np.isclose(rank.tail(0, 1), expected)
    above = scipy.stats.binomtest(int((values > 0).sum()), len(values), alternative="greater")
    assert np.isclose(sign.tail(0, 1), above.pvalue)


# ---------------------------------------------------------------- what an editor could do to a verdict

GAINS = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=5, max_size=5)
MIRROR = {"reproduced": "contradicted", "contradicted": "reproduced"}


@given(GAINS, st.sampled_from(["t", "sign", "rank"]))
@settings(deadline=None)
def test_a_reversed_rule_reverses_every_settled_verdict(gains, test):
    up, down = (verdict(rows(gains), one(rule, more=f'test = "{test}"')) for rule in ("a > b", "a < b"))
    assert down == MIRROR.get(up, up)


@given(GAINS)
@settings(deadline=None)
def test_swapped_sides_reverse_every_settled_verdict(gains):
    frames = rows(gains)
    swapped = frames["scores"].replace({"method": {"ours": "rule", "rule": "ours"}})
    up = verdict(frames, one())
    assert verdict({"scores": swapped}, one()) == MIRROR.get(up, up)


@given(GAINS, st.floats(0.0, 0.5), st.floats(0.0, 0.5))
@settings(deadline=None)
def test_a_wider_smallest_effect_settles_fewer_claims_and_excuses_more(gains, first, second):
    narrow, wide = sorted((first, second))
    found = [
        verdict(rows(gains), plan(CLAIM % ("one", "a > b", 5), head=HEAD.replace("0.05", f"{size:.6f}")))
        for size in (narrow, wide)
    ]
    if found[1] in MIRROR:
        assert found[0] == found[1]
    if found[0] == "no effect":
        assert found[1] == "no effect"


@given(GAINS, st.integers(1, 6))
@settings(deadline=None)
def test_more_tests_of_one_question_never_settle_more(gains, others):
    alone = report.judge(rows(gains), one()).iloc[0]
    crowd = plan(*(CLAIM % (f"c{number}", "a > b", 5) for number in range(others + 1)))
    among = report.judge(rows(gains), crowd).iloc[0]
    if alone["verdict"] == "undecided":
        assert among["verdict"] == "undecided"
    assert among["high"] - among["low"] >= alone["high"] - alone["low"] or np.isnan(among["low"])


@given(GAINS)
@settings(deadline=None)
def test_differences_are_the_means_by_unit(gains):
    found = pairs.differences(rows(gains), one().claims[0], {}, "here")
    assert np.allclose(found, gains)
