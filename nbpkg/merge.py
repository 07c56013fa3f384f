"""One record out of several runs of the same chapter with different seeds."""

from collections.abc import Sequence

from nbpkg.errors import NbpkgError
from nbpkg.record import Metric, Record


def merge(records: Sequence[Record]) -> Record:
    """One record over the seeds of several runs of the same code.

    Per-seed values are united and intervals computed anew. A metric without per-seed values is kept when all
    records agree on it, counts as its seed's value when each record has a single seed, and is dropped
    otherwise. Claims of which a metric changed or vanished are dropped: a verdict comes from the chapter's
    rule, and the chapter computes it anew. Seconds add up; memory is the largest.

    Raises NbpkgError when chapter, profile, source or package differ, or when two records hold the same seed.
    """
    if not records:
        raise NbpkgError("nothing to merge")
    first = records[0]
    for other in records[1:]:
        for name in ("chapter", "profile", "source_sha256", "package_sha256"):
            if getattr(other, name) != getattr(first, name):
                raise NbpkgError(f"cannot merge records of {first.chapter}: {name} differs")
    seeds = [seed for record in records for seed in record.seeds]
    if len(set(seeds)) < len(seeds):
        twice = max(seeds, key=seeds.count)
        raise NbpkgError(f"cannot merge records of {first.chapter}: seed {twice} stands in two of them")
    metrics = {}
    for name in dict.fromkeys(name for record in records for name in record.metrics):
        merged = _merge_metric([(record, record.metrics.get(name)) for record in records])
        if merged is not None:
            metrics[name] = merged

    def unchanged(claim):
        return all(
            name in metrics and all(r.metrics.get(name) == metrics[name] for r in records)
            for name in claim.metrics
        )

    def summed(kind):
        names = dict.fromkeys(name for record in records for name in getattr(record, kind))
        return {name: sum(getattr(record, kind).get(name, 0.0) for record in records) for name in names}

    gpu = [record.peak_gpu_memory_mb for record in records if record.peak_gpu_memory_mb is not None]
    return Record(
        chapter=first.chapter,
        profile=first.profile,
        seeds=sorted(seeds),
        device=" + ".join(dict.fromkeys(record.device for record in records)),
        threads=max(record.threads for record in records),
        source_sha256=first.source_sha256,
        package_sha256=first.package_sha256,
        versions=dict(first.versions),
        data={name: digest for record in records for name, digest in record.data.items()},
        seconds=summed("seconds"),
        cpu_seconds=summed("cpu_seconds"),
        peak_memory_mb=max(record.peak_memory_mb for record in records),
        peak_gpu_memory_mb=max(gpu) if gpu else None,
        metrics=metrics,
        claims=[claim for claim in first.claims if unchanged(claim)],
        deviations=list(first.deviations),
        memo=[piece for record in records for piece in record.memo],
    )


def _merge_metric(parts: list[tuple[Record, Metric | None]]) -> Metric | None:
    present = [(record, metric) for record, metric in parts if metric is not None]
    first = present[0][1]
    if len(present) == len(parts) and all(metric == first and not metric.per_seed for _, metric in present):
        return first
    values: dict[int, float] = {}
    for record, metric in present:
        if not metric.per_seed and len(record.seeds) != 1:
            return None
        values |= metric.per_seed or {record.seeds[0]: metric.value}
    return Metric.over_seeds(values, paper=first.paper, unit=first.unit)
