"""The texts made at build time: they say what the registry, the list of chapters and the contents say."""

import numpy as np
import pytest
import site_tables

from nbpkg import chapters, data, paths
from nbpkg.book import site
from nbpkg.data import latency_table


def test_every_generated_text_is_used_by_a_page():
    pages = "".join(path.read_text("utf-8") for path in (paths.root() / "book").glob("*.md"))
    for name in site_tables.PAGES:
        assert pages.count(f"```{{generated}} {name}\n") == 1, name


def test_data_sets_are_all_named_with_licence_and_source():
    text = site_tables.data_list()
    for item in data.sets():
        assert f"`{item.name}`\n" in text and item.title in text
        assert (item.licence_url or item.licence) in text
        assert not item.checksums or item.checksums in text
    assert text.count("*Licence:*") == text.count("*Source:*") == len(data.sets())
    assert text.count("*Checksums:*") == sum(bool(item.checksums) for item in data.sets()) > 0


def test_only_chapters_on_the_site_are_linked():
    table = site_tables.chapter_table().splitlines()[2:]
    ready = set(site.toc_chapters(paths.root()))
    assert len(table) == len(chapters.CHAPTERS)
    for row, chapter in zip(table, chapters.CHAPTERS, strict=True):
        assert chapter.title in row
        assert (f"notebooks/{chapter.name}.ipynb" in row) == (chapter.name in ready)
        assert row.endswith("to come |") == (chapter.name not in ready)


def test_chapters_in_the_contents_stand_in_their_part_and_order():
    names = site.toc_chapters(paths.root())
    assert names == sorted(names) and "07_hyperdistill_evidence" in names
    for caption, files in site.toc_parts(paths.root()).items():
        for name in files:
            if name.startswith("notebooks/"):
                assert chapters.get(name.split("/")[1]).part == caption


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (400, "0 kB"), (999_000, "999 kB"), (1_000_000, "1.0 MB"), (31_663, "32 kB")],
)
def test_sizes(size, text):
    assert site_tables._size(size) == text


def test_embedded_table_lists_every_setting_with_its_median():
    cells, medians, _ = latency_table.read_embedded()
    facts = site_tables.latency_facts()
    text = facts["table"]
    assert (facts["cells"], facts["devices"]) == (len(cells), len(medians))
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) == set(medians)
    for name, ms in medians.items():
        assert float(rows[name].split("|")[3]) == pytest.approx(np.median(ms), rel=0.02)


def test_bibliography_has_the_paper_of_every_chapter():
    text = (
        (paths.root() / "book" / "references.bib")
        .read_text("utf-8")
        .replace("{", "")
        .replace("}", "")
        .lower()
    )
    for chapter in chapters.CHAPTERS:
        assert chapter.paper.lower() in text, chapter.name
