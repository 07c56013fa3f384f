"""The committed pictures are what their script draws."""

import runpy
import xml.etree.ElementTree as ET

import pytest

from nbpkg import chapters, paths

ASSETS = paths.root() / "book" / "_assets"
DRAWN = runpy.run_path(str(ASSETS / "draw.py"), run_name="draw")


@pytest.mark.parametrize("name", DRAWN["FILES"])
def test_committed_picture_is_current(name):
    assert (ASSETS / name).read_text("utf-8") == DRAWN["FILES"][name](), "run: python book/_assets/draw.py"


def test_the_picture_shows_every_paper_chapter_once():
    words = [node.text for node in ET.fromstring(DRAWN["picture"]()).iter("{http://www.w3.org/2000/svg}text")]
    for chapter in chapters.CHAPTERS:
        if chapter.paper and not chapter.evidence:
            assert words.count(chapter.number) == 1 and words.count(chapter.title) == 1


def test_pictures_hold_together_without_other_files():
    for name in DRAWN["FILES"]:
        text = (ASSETS / name).read_text("utf-8")
        assert "href" not in text and "url(" not in text and "<script" not in text
