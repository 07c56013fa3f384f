"""Records: their JSON form, what is refused, merging over seeds; and the rules that make verdicts."""

import copy
import json
import math

import pytest

from nbpkg.errors import NbpkgError
from nbpkg.report import tables, verdicts
from nbpkg.report.record import VERDICTS, Claim, Deviation, Metric, Record, number
from nbpkg.report.stats import t_interval
from nbpkg.session.first_edition import metrics, over_seeds


def make(**changes) -> Record:
    seeds = changes.pop("seeds", [0, 1, 2])
    fields = {
        "chapter": "03_help",
        "profile": "standard",
        "seeds": seeds,
        "device": "cpu (x)",
        "threads": 1,
        "source_sha256": "a" * 64,
        "package_sha256": "b" * 64,
        "versions": {"python": "3.11", "nbpkg": "0.1.0"},
        "data": {"help": "sha256:c"},
        "seconds": {"total": 3.0, "train": 2.0},
        "cpu_seconds": {"total": 3.0, "train": 2.0},
        "peak_memory_mb": 200.0,
        "metrics": {
            "rho": over_seeds({seed: 0.9 + seed / 100 for seed in seeds}, paper=0.93),
            "flops": Metric(0.8, unit="%"),
        },
        "claims": [
            Claim("few-shot", "It works | well.", ("rho", "flops"), "t-interval", "partly", "why"),
            Claim("plain", "Counting works.", ("flops",), "by value", "reproduced"),
        ],
        "deviations": [Deviation(1, "fewer epochs", "slightly lower")],
        "memo": [{"name": "train", "seed": 0, "seconds": 1.0, "from_cache": False}],
    }
    return Record(**(fields | changes))


def test_over_seeds_gives_the_mean_and_the_t_interval():
    metric = over_seeds({2: 3.0, 0: 1.0, 1: 2.0}, paper=2.5, unit="ms")
    assert (metric.value, metric.low, metric.high) == pytest.approx(t_interval([1.0, 2.0, 3.0]))
    assert (metric.n, metric.paper, metric.unit, list(metric.per_seed)) == (3, 2.5, "ms", [0, 1, 2])


def test_one_seed_has_no_interval():
    metric = over_seeds({4: 0.5})
    assert (metric.value, metric.low, metric.high, metric.n) == (0.5, None, None, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": 1.0, "paper": math.nan},
        {"value": 1.0, "low": 0.5},
        {"value": 1.0, "low": 2.0, "high": 1.0},
        {"value": 1.0, "n": 0},
        {"value": 1.0, "per_seed": {0: math.nan}},
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError):
        Metric(**wrong)


@pytest.mark.parametrize("values", [{}, {0: math.nan}, {0: 1.0, 1: math.inf}])
def test_over_seeds_refuses_nothing_and_nan(values):
    with pytest.raises(ValueError):
        over_seeds(values)


def test_a_claim_takes_only_known_verdicts():
    for verdict in VERDICTS:
        assert Claim("a", "s", (), "t", verdict).verdict == verdict
    with pytest.raises(ValueError, match="mostly"):
        Claim("a", "s", (), "t", "mostly")


def test_a_record_survives_the_file(tmp_path):
    for record in (make(), make(peak_gpu_memory_mb=12.5, claims=[], metrics={}, data={})):
        path = record.save(tmp_path / "deep" / "03_help.json")
        assert Record.load(path) == record
        assert json.loads(path.read_text())["schema"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["03_help.json"]


def test_nulls_are_left_out_and_seeds_are_keys():
    raw = make(seeds=[7]).to_json()
    assert raw["metrics"]["rho"] == {"value": 0.97, "n": 1, "paper": 0.93, "per_seed": {"7": 0.97}}
    assert raw["metrics"]["flops"] == {"value": 0.8, "n": 1, "unit": "%"}
    assert "peak_gpu_memory_mb" not in raw


def test_saving_replaces_whole_or_not_at_all(tmp_path):
    path = make().save(tmp_path / "r.json")
    before = path.read_text()
    bad = make(claims=[Claim("a", "s", ("absent",), "t", "partly")])
    with pytest.raises(NbpkgError, match="absent"):
        bad.save(path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


# Each change with the word that the error must name.
WRONG = {
    "schema": (lambda r: r.update(schema=2), "schema 2"),
    "no schema": (lambda r: r.pop("schema"), "schema None"),
    "missing": (lambda r: r.pop("device"), "device"),
    "unknown": (lambda r: r.update(mood="good"), "mood"),
    "profile": (lambda r: r.update(profile="fast"), "profile"),
    "chapter": (lambda r: r.update(chapter="help"), "chapter"),
    "seeds": (lambda r: r.update(seeds=[0, 0]), "seeds"),
    "no seeds": (lambda r: r.update(seeds=[]), "seeds"),
    "negative seconds": (lambda r: r["seconds"].update(total=-1), "seconds/total"),
    "no total": (lambda r: r["cpu_seconds"].pop("total"), "total"),
    "text value": (lambda r: r["metrics"]["rho"].update(value="high"), "metrics/rho/value"),
    "half an interval": (lambda r: r["metrics"]["rho"].pop("low"), "metrics/rho"),
    "crossed interval": (lambda r: r["metrics"]["rho"].update(low=2.0), "metrics/rho"),
    "nan": (lambda r: r["metrics"]["flops"].update(value=math.nan), "metrics/flops/value"),
    "stray seed": (lambda r: r["metrics"]["rho"]["per_seed"].update({"9": 1.0}), "seed 9"),
    "verdict": (lambda r: r["claims"][0].update(verdict="sure"), "claims/0/verdict"),
    "unknown metric": (lambda r: r["claims"][0].update(metrics=["nope"]), "nope"),
    "claim twice": (lambda r: r["claims"].append(r["claims"][0]), "few-shot"),
    "claim id": (lambda r: r["claims"][0].update(id="Few Shot"), "claims/0/id"),
    "deviation": (lambda r: r["deviations"].append("a text"), "deviations/1"),
    "hash": (lambda r: r.update(package_sha256="x"), "package_sha256"),
}


@pytest.mark.parametrize("change, named", WRONG.values(), ids=WRONG)
def test_a_wrong_record_is_refused_in_one_line_that_names_the_field(change, named, tmp_path):
    raw = make().to_json()
    change(raw)
    path = tmp_path / "03_help.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(NbpkgError) as error:
        Record.load(path)
    message = str(error.value)
    if "NaN" not in message:  # refused while reading, before there are fields
        assert named in message
    assert message.startswith("03_help.json: ") and "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "{", "[1", '{"schema": 1}', "[]", "3", '{"schema": 1, "x": NaN}', "\x00"]
)
def test_garbage_is_refused(text, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(NbpkgError, match=r"r\.json"):
        Record.load(path)


@pytest.mark.parametrize("field", ["seconds", "cpu_seconds"])
def test_nan_never_reaches_a_file(field, tmp_path):
    with pytest.raises(NbpkgError, match=f"{field}/total"):
        make(**{field: {"total": math.nan}}).save(tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_an_absent_record_is_named(tmp_path):
    with pytest.raises(NbpkgError, match=r"none\.json"):
        Record.load(tmp_path / "none.json")


# ------------------------------------------------------------------ verdicts

INSIDE, REACHES_OUT = Metric(0.95, 0.93, 0.97, 3), Metric(0.95, 0.85, 1.0, 3)
REACHES_IN, OUTSIDE = Metric(0.85, 0.80, 0.91, 3), Metric(0.80, 0.75, 0.85, 3)
ONE_IN, ONE_OUT = Metric(0.95), Metric(0.85)
TABLE = [
    (INSIDE, "reproduced"),
    (REACHES_OUT, "partly"),
    (REACHES_IN, "not reproduced"),
    (OUTSIDE, "contradicted"),
    (ONE_IN, "partly"),
    (ONE_OUT, "not reproduced"),
]


@pytest.mark.parametrize("metric, verdict", TABLE)
def test_the_table_of_verdicts(metric, verdict):
    def mirrored(metric):
        ends = {} if metric.low is None else {"low": -metric.high, "high": -metric.low}
        return Metric(-metric.value, n=metric.n, **ends)

    assert verdicts.at_least("m", 0.9)({"m": metric})[0] == verdict
    assert verdicts.greater("m", 0.9)({"m": metric})[0] == verdict
    assert verdicts.at_most("m", -0.9)({"m": mirrored(metric)})[0] == verdict
    assert verdicts.smaller("m", -0.9)({"m": mirrored(metric)})[0] == verdict
    assert verdicts.within("m", 1.0, 0.1)({"m": metric})[0] == verdict


def test_greater_is_strict_where_at_least_is_not():
    edge = {"m": Metric(0.5, 0.0, 1.0, 3)}
    assert verdicts.at_least("m", 0.0)(edge)[0] == "reproduced"
    assert verdicts.greater("m")(edge)[0] == "partly"
    nothing = {"m": Metric(0.0, 0.0, 0.0, 3)}
    assert verdicts.greater("m")(nothing)[0] == verdicts.smaller("m")(nothing)[0] == "contradicted"


def test_an_interval_wider_than_the_band_does_not_contradict():
    assert verdicts.within("m", 0.0, 0.1)({"m": Metric(1.0, -1.0, 3.0, 3)})[0] == "not reproduced"
    assert verdicts.within("m", 0.0, 0.1)({"m": Metric(1.0, 0.05, 3.0, 3)})[0] == "not reproduced"
    assert verdicts.within("m", 0.0, 0.1)({"m": Metric(0.0, -1.0, 1.0, 3)})[0] == "partly"
    assert verdicts.within("m", 0.0, 0.1)({"m": Metric(1.0, -0.5, 3.0, 3)})[0] == "not reproduced"
    with pytest.raises(ValueError):
        verdicts.within("m", 0.0, -1.0)


def test_the_note_tells_the_numbers():
    assert verdicts.at_least("m", 0.9)({"m": INSIDE})[1] == "0.950 [0.930, 0.970] against at least 0.900"
    assert "one run" in verdicts.at_least("m", 0.9)({"m": ONE_IN})[1]


def fixed(verdict):
    return lambda metrics: (verdict, verdict[0])


@pytest.mark.parametrize(
    "parts, every, each",
    [
        (["reproduced", "reproduced"], "reproduced", "reproduced"),
        (["reproduced", "partly"], "partly", "partly"),
        (["reproduced", "not reproduced"], "not reproduced", "partly"),
        (["reproduced", "contradicted"], "contradicted", "partly"),
        (["contradicted", "contradicted"], "contradicted", "contradicted"),
        (["not reproduced", "contradicted"], "contradicted", "not reproduced"),
        (["reproduced", "not tested"], "partly", "partly"),
        (["contradicted", "not tested"], "contradicted", "not reproduced"),
        (["not tested", "not tested"], "not tested", "not tested"),
    ],
)
def test_combined_rules(parts, every, each):
    for order in (parts, parts[::-1]):
        rules = [fixed(part) for part in order]
        assert verdicts.all_of(*rules)({})[0] == every
        assert verdicts.each_of(*rules)({})[0] == each
    assert verdicts.all_of(lambda m: "partly", fixed("partly"))({}) == ("partly", "p")
    with pytest.raises(ValueError):
        verdicts.all_of()({})


# ------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (3.0, "3"),
        (0.93456, "0.935"),
        (-1.5, "-1.50"),
        (71.23, "71.2"),
        (1234.5, "1234"),
        (15625, "15625"),
        (0.00012, "0.00012"),
        (2.5e7, "2.5e+07"),
    ],
)
def test_numbers_for_reading(value, text):
    assert number(value) == text


def columns(markdown: str) -> list[list[str]]:
    """Rows of a Markdown table, split at the pipes that are not escaped."""
    rows = [line.strip().strip("|").replace("\\|", "\0").split("|") for line in markdown.splitlines()]
    return [[cell.replace("\0", "|").strip() for cell in row] for row in rows]


def test_tables_have_the_same_columns_in_every_row_and_escape_pipes():
    record = make()
    for markdown in (
        tables.claims(record),
        tables.deviations(record),
        metrics(record, record.metrics),
        tables.run_card(record),
        tables.table(("a|b", "c"), [("x\ny", "p|q\\|r"), ("", 3)]),
    ):
        rows = columns(markdown)
        assert len({len(row) for row in rows}) == 1
    assert columns(tables.table(("a|b",), [("p|q\\|r",)]))[2] == ["p|q|r"]


def test_the_table_of_claims_has_what_was_measured_beside_the_paper():
    head, _, first, second = columns(tables.claims(make()))
    assert head == ["claim", "verdict", "ours", "paper", "test"]
    assert first[:2] == ["It works | well.", "**partly**"]
    assert "0.910 [0.885, 0.935], n = 3" in first[2] and "0.800 %" in first[2] and "0.930" in first[3]
    assert first[4].endswith("<br>why") and second[2:4] == ["0.800 %, n = 1", "–"]


def test_the_run_card_counts_what_came_from_the_cache():
    record = make()
    assert ["pieces from the cache", "0 of 1"] in columns(tables.run_card(record))
    cached = copy.deepcopy(record)
    cached.memo[0]["from_cache"] = True
    assert ["pieces from the cache", "1 of 1; they took 1.0 s when made, counted above"] in columns(
        tables.run_card(cached)
    )


def test_a_single_run_neither_settles_nor_refutes():
    rule = verdicts.one_run(verdicts.greater("x"))
    assert rule({"x": Metric(1.0, low=0.5, high=1.5)})[0] == "partly"
    assert rule({"x": Metric(-1.0, low=-1.5, high=-0.5)})[0] == "not reproduced"
