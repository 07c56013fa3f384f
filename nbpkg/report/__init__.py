"""What a run measured and how it is judged and shown: records, verdicts, tables, statistics, plots."""

from nbpkg.report.frames import mean_over, t_ends, table
from nbpkg.report.judging import judge

__all__ = ["judge", "mean_over", "t_ends", "table"]
