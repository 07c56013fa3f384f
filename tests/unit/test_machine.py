"""What a process may use of its machine."""

import math

import pytest

from nbpkg import machine

QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a", {"a/cpu.max": "max 100000"}, math.inf),
        ("3:cpu,cpuacct:/d\n2:memory:/", {QUOTA: "50000", PERIOD: "100000"}, 0.5),
        ("1:cpu:/", {QUOTA: "-1", PERIOD: "100000"}, math.inf),
        ("0::/", {}, math.inf),
    ],
)
def test_a_containers_quota_limits_the_cores(tmp_path, monkeypatch, groups, files, cores):
    (tmp_path / "groups").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    assert machine.quota(tmp_path / "groups", tmp_path / "cgroup") == cores
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 3, 1, 2}, raising=False)
    monkeypatch.setattr(machine, "quota", lambda: cores)
    assert machine.usable_cpus() == [0, 1, 2, 3][: {0.5: 1, 1.5: 1, 2: 2}.get(cores, 4)]
