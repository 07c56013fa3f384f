"""The list of chapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nbpkg.errors import NbpkgError
from nbpkg.paths import root

PROFILES = ("smoke", "standard", "paper")


@dataclass(frozen=True)
class Chapter:
    """One chapter of the book, written or still to come."""

    name: str
    title: str
    paper: str
    part: str
    authors: str
    venue: str

    @property
    def number(self) -> str:
        return self.name.split("_", 1)[0]

    @property
    def twin(self) -> Path:
        """The py:percent text that people edit."""
        return root() / "notebooks" / "src" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """The paired notebook that carries the published outputs."""
        return root() / "notebooks" / f"{self.name}.ipynb"

    @property
    def exists(self) -> bool:
        return self.twin.is_file()


_SEARCH, _REUSE, _DISTIL = "I Search", "II Reuse", "III Distil"

CHAPTERS: list[Chapter] = [
    Chapter("00_foundations", "Foundations", "", "Foundations", "", ""),
    Chapter(
        "01_supernets", "Supernets",
        "A Survey of Supernet Optimization and its Applications: Spatial and Temporal Optimization for "
        "Neural Architecture Search",
        _SEARCH, "Cha et al.", "arXiv 2022",
    ),
    Chapter(
        "02_metad2a", "MetaD2A",
        "Rapid Neural Architecture Search by Learning to Generate Graphs from Datasets",
        _SEARCH, "Lee et al.", "ICLR 2021",
    ),
    Chapter(
        "03_help", "HELP",
        "HELP: Hardware-Adaptive Efficient Latency Prediction for NAS via Meta-Learning",
        _SEARCH, "Lee et al.", "NeurIPS 2021",
    ),
    Chapter(
        "04_diffusionnag", "DiffusionNAG",
        "DiffusionNAG: Predictor-guided Neural Architecture Generation with Diffusion Models",
        _SEARCH, "An et al.", "ICLR 2024",
    ),
    Chapter(
        "05_tans", "TANS",
        "Task-Adaptive Neural Network Search with Meta-Contrastive Learning",
        _REUSE, "Jeong et al.", "NeurIPS 2021",
    ),
    Chapter(
        "06_weight_generation", "Weight generation",
        "Diffusion-based Neural Network Weights Generation",
        _REUSE, "Soro et al.", "arXiv 2024, ICLR 2025",
    ),
    Chapter(
        "07_hyperdistill", "HyperDistill",
        "Online Hyperparameter Meta-Learning with Hypergradient Distillation",
        _DISTIL, "Lee et al.", "ICLR 2022",
    ),
    Chapter(
        "08_dass", "DaSS",
        "Meta-prediction Model for Distillation-Aware NAS on Unseen Datasets",
        _DISTIL, "An et al.", "ICLR 2023",
    ),
    Chapter(
        "09_weak_teacher", "A weak teacher",
        "A Study on Knowledge Distillation from Weak Teacher for Scaling Up Pre-trained Language Models",
        _DISTIL, "Lee et al.", "Findings of ACL 2023",
    ),
    Chapter(
        "10_ctcd", "CTCD",
        "Co-training and Co-distillation for Quality Improvement and Compression of Language Models",
        _DISTIL, "Lee et al.", "Findings of EMNLP 2023",
    ),
]  # fmt: skip


def get(name: str) -> Chapter:
    """The chapter called `name`: its full name, its number, or its name without the number.

    Raises NbpkgError, with the known names, for any other string.
    """
    wanted = str(name).removesuffix(".py").removesuffix(".ipynb")
    for chapter in CHAPTERS:
        if wanted in (chapter.name, chapter.number, chapter.name.split("_", 1)[1]):
            return chapter
    known = ", ".join(chapter.name for chapter in CHAPTERS)
    raise NbpkgError(f"no chapter is called {name!r}; the chapters are {known}")


def existing() -> list[Chapter]:
    """The chapters whose twin is on disk, in the book's order."""
    return [chapter for chapter in CHAPTERS if chapter.exists]
