"""A record as Markdown tables: claims, deviations, metrics and the run card."""

from collections.abc import Iterable, Sequence

from nbpkg.report.record import Metric, Record, number


def cell(text: object) -> str:
    """`text` fit for a cell of a Markdown table: pipes escaped, line ends as breaks."""
    return (
        str(text).replace("\\|", "|").replace("|", "\\|").strip().replace("\r\n", "\n").replace("\n", "<br>")
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped here."""
    lines = ["| " + " | ".join(map(cell, header)) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def measured(metric: Metric) -> str:
    """A metric in words: value with unit, interval, number of repetitions."""
    text = number(metric.value) + (f" {metric.unit}" if metric.unit else "")
    if metric.low is not None:
        text += f" [{number(metric.low)}, {number(metric.high)}]"
    return f"{text}, n = {metric.n}"


def _paper(metric: Metric) -> str:
    return "–" if metric.paper is None else number(metric.paper) + (f" {metric.unit}" if metric.unit else "")


def claims(record: Record) -> str:
    """The table claim, verdict, ours, paper, test; the note stands under the test.

    The verdict comes second, so that it is seen where a narrow screen cuts the table.
    """
    rows = []
    for claim in record.claims:
        metrics = [(name, record.metrics[name]) for name in claim.metrics]
        several = len(metrics) > 1
        ours = "\n".join((f"`{name}` " if several else "") + measured(metric) for name, metric in metrics)
        given = [(name, metric) for name, metric in metrics if metric.paper is not None]
        paper = "\n".join((f"`{name}` " if several else "") + _paper(metric) for name, metric in given)
        test = claim.test + (f"\n{claim.note}" if claim.note else "")
        rows.append((claim.statement, f"**{claim.verdict}**", ours or "–", paper or "–", test))
    return table(("claim", "verdict", "ours", "paper", "test"), rows)


def deviations(record: Record) -> str:
    """The numbered deviations and their expected effects."""
    return table(
        ("no.", "deviation", "expected effect"), [(d.number, d.text, d.effect) for d in record.deviations]
    )


def metrics(record: Record, names: Iterable[str]) -> str:
    """The named metrics beside the paper's numbers."""
    rows = [(f"`{name}`", measured(record.metrics[name]), _paper(record.metrics[name])) for name in names]
    return table(("metric", "ours", "paper"), rows)


def duration(seconds: float) -> str:
    """Seconds for reading: seconds below ten minutes, then minutes, then hours."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def run_card(record: Record) -> str:
    """What ran, on what, for how long."""
    rows = [
        ("chapter", record.chapter),
        ("profile", record.profile),
        ("seeds", ", ".join(map(str, record.seeds))),
        ("device", record.device),
        ("threads", record.threads),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        (
            "data",
            "\n".join(f"{name} `{digest[:19]}…`" for name, digest in record.data.items())
            or "embedded or none",
        ),
        (
            "time in all",
            f"{duration(record.seconds['total'])}, {duration(record.cpu_seconds['total'])} of CPU",
        ),
    ]
    rows += [
        (f"time: {name}", f"{duration(seconds)}, {duration(record.cpu_seconds.get(name, 0.0))} of CPU")
        for name, seconds in record.seconds.items()
        if name != "total"
    ]
    rows.append(("peak memory", f"{record.peak_memory_mb:.0f} MB"))
    if record.peak_gpu_memory_mb is not None:
        rows.append(("peak GPU memory", f"{record.peak_gpu_memory_mb:.0f} MB"))
    cached = [piece for piece in record.memo if piece["from_cache"]]
    if record.memo:
        spent = duration(sum(piece["seconds"] for piece in cached))
        text = f"{len(cached)} of {len(record.memo)}"
        rows.append(
            (
                "pieces from the cache",
                text + (f"; they took {spent} when made, counted above" if cached else ""),
            )
        )
    return table(("run card", ""), rows)
