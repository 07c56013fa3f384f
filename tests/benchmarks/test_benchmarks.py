"""The benchmarks run, and compare like with like; how long anything takes is not tested."""

import re

import language
import nets
import zoo


def test_the_zoos_benchmark_trains_the_same_networks_both_ways():
    lines = list(zoo.compare(networks=4, device="cpu"))
    assert "networks a minute" in lines[0]
    assert float(re.search(r"differs by ([0-9.]+) points", lines[-1])[1]) < 15


def test_the_benchmark_of_set_and_graph_networks_times_every_part(monkeypatch):
    for name, value in {"BATCH": 4, "CLASSES": 2, "IMAGES": 3, "CANDIDATES": 5, "SETS": 2}.items():
        monkeypatch.setattr(nets, name, value)
    monkeypatch.setattr(nets, "EPISODE", (2, 3, 4, 4, 5))
    lines = list(nets.compare("cpu", repeats=1))
    assert len(lines) == 10
    assert all("one by one" in line and "CPU s" in line for line in lines[1:4])
    assert all("seeds at once" in line and "of the peak" in line for line in lines[5:8])
    assert all("an episode of 2 tasks of 3 students" in line for line in lines[8:])


def test_the_benchmark_of_language_models_trains_every_width(monkeypatch):
    monkeypatch.setattr(language, "WIDTHS", (8, 16))
    for name, value in {"ROWS": 4, "LENGTH": 8, "VOCABULARY": 30, "STEPS": 2}.items():
        monkeypatch.setattr(language, name, value)
    lines = list(language.compare("cpu", seeds=2, repeats=1))
    assert len(lines) == 4 and "2 seeds at once" in lines[0] and "GFLOP/s" in lines[1]
    assert all("tokens a second" in line and "of the peak" in line for line in lines[2:])
