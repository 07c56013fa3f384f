"""What a run measured and how it is judged and shown: records, verdicts, tables, statistics, plots."""
