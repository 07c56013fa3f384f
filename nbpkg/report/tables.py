"""A record as Markdown tables: claims, deviations, metrics and the run card."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple

from nbpkg.progress import duration
from nbpkg.report.record import Metric, Record, number


def cell(text: object) -> str:
    """`text` fit for a cell of a Markdown table: pipes escaped, line ends as breaks."""
    text = str(text).replace("\\|", "|").replace("|", "\\|").strip()
    return text.replace("\r\n", "\n").replace("\n", "<br>")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> str:
    """A Markdown table; cells are escaped here. right: positions of the columns that are aligned right."""
    rule = "".join("--:|" if column in right else "---|" for column in range(len(header)))
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (header, *rows)]
    return "\n".join((lines[0], "|" + rule, *lines[1:]))


def measured(metric: Metric) -> str:
    """A metric in words: value with unit, interval, number of repetitions."""
    interval = "" if metric.low is None else f" [{number(metric.low)}, {number(metric.high)}]"
    return f"{with_unit(metric.value, metric)}{interval}, n = {metric.n}"


def with_unit(value: float | None, metric: Metric) -> str:
    """A value in the unit of `metric`."""
    return "–" if value is None else number(value) + (f" {metric.unit}" if metric.unit else "")


def claims(record: Record) -> str:
    """The table claim, verdict, ours, paper, test; the note stands under the test.

    The verdict comes second, so that it is seen where a narrow screen cuts the table. Which rows a claim of a
    file compares stands in that file, and p-values in the record.
    """
    rows = []
    for claim in record.claims:
        ours, paper = [], []
        for name in claim.metrics:
            metric, case = record.metrics[name], name.partition("/")[2] if claim.question else f"`{name}`"
            label = f"{case} " if len(claim.metrics) > 1 else ""
            ours.append(label + measured(metric))
            if metric.paper is not None:
                paper.append(label + with_unit(metric.paper, metric))
        numbers = ("\n".join(lines) or "–" for lines in (ours, paper))
        verdict = f"**{claim.verdict}**" + (" (seen in design)" if claim.seen else "")
        how = claim.test.partition("; smallest")[0] if claim.question else claim.test
        note = claim.note.replace(f"seen in design: {claim.seen}", "")
        note = re.sub(r":? ?p = \S+ at [\w.-]+;? ?", "", note).strip() if claim.question else claim.note
        said = "; ".join([how, *note.splitlines()]) if claim.question else f"{how}\n{note}"
        rows.append((claim.statement, verdict, *numbers, said.strip()))
    return table(("claim", "verdict", "ours", "paper", "test"), rows)


def deviations(record: Record) -> str:
    """The numbered deviations and their expected effects."""
    return table(("no.", "deviation", "expected effect"), map(astuple, record.deviations))


def run_card(record: Record) -> str:
    """What ran, on what, for how long."""
    data = "\n".join(f"{name} `{digest[:19]}…`" for name, digest in record.data.items())
    rows = [
        ("chapter", record.chapter),
        ("profile", record.profile),
        ("seeds", ", ".join(map(str, record.seeds))),
        ("device", record.device),
        ("threads", record.threads),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("data", data or "embedded or none"),
    ]
    for name in sorted(record.seconds, key=lambda name: name != "total"):
        wall, cpu = (duration(part.get(name, 0.0), True) for part in (record.seconds, record.cpu_seconds))
        spread = record.device_seconds.get(name, {})
        gpu = f"; results: {spread['cuda']:.1f} s on CUDA, {spread['cpu']:.1f} s beside it" if spread else ""
        rows.append(("time in all" if name == "total" else f"time: {name}", f"{wall}, {cpu} of CPU{gpu}"))
    if record.gpu_share is not None:
        why = dict.fromkeys(piece["on_cpu"] for piece in record.memo if piece.get("on_cpu"))
        rest = f"; the rest beside it: {', '.join(why)}" if why else ""
        rows.append(("on the GPU", f"{record.gpu_share:.0%} of the seconds of stored results{rest}"))
    rows.append(("peak memory", f"{record.peak_memory_mb:.0f} MB"))
    if record.peak_gpu_memory_mb is not None:
        rows.append(("peak GPU memory", f"{record.peak_gpu_memory_mb:.0f} MB"))
    cached = [piece["seconds"] for piece in record.memo if piece["from_cache"]]
    if record.memo:
        spent = f"; they took {duration(sum(cached), True)} when made, counted above" if cached else ""
        rows.append(("pieces from the cache", f"{len(cached)} of {len(record.memo)}{spent}"))
    return table(("run card", ""), rows)
