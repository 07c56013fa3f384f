"""What ties a published record to what it speaks of: outputs, rows, claims, numbers, code, and prose."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from nbpkg import chapters
from nbpkg.chapters import Chapter
from nbpkg.chapters.hashes import modules
from nbpkg.errors import NbpkgError
from nbpkg.paths import git, relative
from nbpkg.report import claims, frames, judging
from nbpkg.report.record import Metric, Record

_RELIES = re.compile(r"<!-- relies: (.*?) -->", re.DOTALL)
_HELD = re.compile(r"(<!-- held -->\n).*?((?:# )?<!-- /held -->)", re.DOTALL)


def same(ours: Metric, theirs: Metric) -> bool:
    """Whether value, interval and n of two metrics are equal, but for rounding."""
    pairs = zip((ours.value, ours.low, ours.high), (theirs.value, theirs.low, theirs.high), strict=True)
    return ours.n == theirs.n and all(
        x == y or (None not in (x, y) and math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9)) for x, y in pairs
    )


def plan_problems(chapter: Chapter, record: Record, folder: Path) -> Iterator[str]:
    """Whether claims file, rows in `folder`, and the numbers and verdicts of a record belong together."""
    plan, name = claims.find(chapter.name), chapter.name
    if plan is None or plan.sha256 != record.plan.get("sha256"):
        yield "the claims file has changed since the run: run again, then publish"
        return
    if plan.deviations != [(one.text, one.effect) for one in record.deviations]:
        yield "the deviations in the claims file have changed since the run: run again, then publish"
    made, size = {}, 0
    for path in sorted(folder.glob(f"{name}.*.parquet")):
        if path.name.split(".")[1] not in record.rows:
            yield f"{path.name} belongs to no frame of the record: delete it"
    for frame, entry in record.rows.items():
        path = folder / f"{name}.{frame}.parquet"
        if not path.is_file() or chapters.file_sha256(path) != entry["sha256"]:
            yield f"{path.name} is not what the run wrote: publish again"
            return
        made[frame], bound = frames.load(path)
        size += path.stat().st_size
        if bound != plan.sha256:
            yield f"{path.name} was computed under other claims: run again, then publish"
        if "seed" in made[frame] and (made[frame]["seed"] >= claims.PILOT).any():
            yield f"{path.name} holds rows of pilots, seeds from {claims.PILOT} on"
    if size > frames.LIMIT:
        yield f"its rows have {size} bytes, more than {frames.LIMIT}"
    judged, metrics = judging.entries(judging.judge(made, plan), plan)
    for ours, theirs in zip(judged, record.claims, strict=False):
        if (ours.id, ours.statement, ours.verdict) != (theirs.id, theirs.statement, theirs.verdict):
            yield f"claim {theirs.id} is {theirs.verdict} in the record and {ours.verdict} by its rows"
    if len(judged) != len(record.claims):
        yield f"the record has {len(record.claims)} claims, the claims file {len(judged)}"
    for key, metric in metrics.items():
        if key not in record.metrics or not same(metric, record.metrics[key]):
            yield f"metric {key} is not what its rows make"


def history_problems(chapter: Chapter, record: Record) -> Iterator[str]:
    """Whether git's history has the claims before the run, the run before now, and no effect that grew."""
    name, commit = relative(claims.path_of(chapter.name)), record.commit
    if git("merge-base", "--is-ancestor", commit, "HEAD") is None:
        yield f"the run is of {commit[:12] or 'no commit'}, which the history does not hold"
        return
    before = git("show", f"{commit}:{name}")
    if before is None or claims.parse(before, chapter.name).sha256 != record.plan.get("sha256"):
        yield "the claims file was not committed before the run"
    now, used = claims.find(chapter.name), set()
    for version in reversed((git("log", "--format=%H", "--", name) or "").split()):
        try:
            old = claims.parse(git("show", f"{version}:{name}") or "", chapter.name)
        except NbpkgError:  # a file of another form binds nothing
            continue
        used |= {old.sha256} & _published(chapter.name)
        for metric, size in old.smallest.items() if used else ():
            if now and now.smallest.get(metric, size) > size:
                yield f"the smallest effect of {metric} has grown since {version[:12]}, after a run used it"
                return


def _published(name: str) -> set[str]:
    """The hashes of claims files that published records of a chapter have ever named."""
    found = set()
    for path in [f"results/{profile}/{name}.json" for profile in chapters.PROFILES]:
        for version in (git("log", "--format=%H", "--", path) or "").split():
            found.add(json.loads(git("show", f"{version}:{path}") or "{}").get("plan", {}).get("sha256"))
    return found


def remarks(chapter: Chapter, record: Record) -> Iterator[str]:
    """What has moved on since a run."""
    if changed := sorted({name for name, _ in modules(chapter.name).items() ^ record.modules.items()}):
        yield f"nbpkg has moved on since the run: {', '.join(changed)}"


def prose_problems(chapter: Chapter, record: Record) -> Iterator[str]:
    """Paragraphs that rely on verdicts which the record does not hold, and *In short* out of step with it."""
    verdicts = {claim.id: claim.verdict for claim in record.claims}
    for cell in chapters.cells(chapter.name):
        for said in _RELIES.findall(cell.source) if cell.kind == "markdown" else ():
            for part in re.split(r"[,\s]+(?=\S+=)", said.strip()):
                name, _, verdict = part.partition("=")
                if verdicts.get(name) != verdict.strip():
                    found = verdicts.get(name, "no claim of it")
                    yield f"line {cell.line}: the prose relies on {part}, the record says {found}"
    text = chapter.twin.read_text(encoding="utf-8")
    if filled(text, record, "# ") != text:
        yield "*In short* does not say what the record holds: publish again"


def filled(text: str, record: Record, prefix: str = "") -> str:
    """A text with what held in place of what stands between its marks, a line a question.

    Claims stand there by their short form, where their file gives one.
    """
    plan = claims.find(record.chapter) if _HELD.search(text) else None
    short = {claim["id"]: claim["name"] for claim in plan.claims if "name" in claim} if plan else {}
    lines = []
    for question, words in claims.QUESTIONS.items():
        asked: dict[str, list[str]] = {}
        for one in record.claims:
            if one.question == question:
                asked.setdefault(one.verdict, []).append(short.get(one.id, one.statement.rstrip(".")))
        if asked:
            said = " ".join(f"**{verdict}**: {'; '.join(names)}." for verdict, names in asked.items())
            lines.append(f"{prefix}- *{words}* {said}\n")
    return _HELD.sub(lambda found: found[1] + "".join(lines) + found[2], text)
