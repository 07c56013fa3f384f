"""The built site as files: links lead somewhere, downloads are what they say, nothing is from elsewhere."""

import ast
import json
import re
from html.parser import HTMLParser
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from site_visitor import CHAPTERS, EXTRA, PAGES

from nbpkg import paths


class Page(HTMLParser):
    """The links, loaded files and anchors of one page."""

    LOADS: ClassVar = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(found.get("href", ""))
        elif tag in self.LOADS and found.get(self.LOADS[tag]):
            self.loads.append(found[self.LOADS[tag]])


@pytest.fixture(scope="session")
def parsed(built):
    """Every HTML file of the site."""
    files = [path for path in built.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(built).as_posix(): Page(path.read_text("utf-8")) for path in files}


def test_the_pages_are_those_of_the_contents(built, parsed):
    assert set(parsed) == set(PAGES) | EXTRA
    assert (built / "index.html").is_file()


def test_links_inside_the_site_lead_somewhere(built, parsed):
    checked = 0
    for name, page in parsed.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("#!"):
                continue
            target = (built / name).parent / unquote(parts.path) if parts.path else built / name
            assert target.exists(), f"{name} links to {link}"
            key = target.resolve().relative_to(built.resolve()).as_posix()
            if parts.fragment and key in parsed:
                assert unquote(parts.fragment) in parsed[key].anchors, f"{name} links to {link}"
            checked += 1
    assert checked > 100


def test_nothing_is_loaded_from_elsewhere(parsed):
    for name, page in parsed.items():
        assert [load for load in page.loads if urlsplit(load).netloc] == [], name


def test_links_to_elsewhere_are_https_without_invented_repositories(parsed):
    for name, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            assert parts.scheme in ("", "https"), f"{name}: {link}"
            assert "executablebooks" not in link and "colab." not in parts.netloc, f"{name}: {link}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_downloaded_as_notebook_and_as_script(built, parsed, name):
    stem = name.removeprefix("notebooks/").removesuffix(".html")
    for suffix in ("ipynb", "py"):
        assert any(link.endswith(f"_sources/notebooks/{stem}.{suffix}") for link in parsed[name].links)
    script = (built / "_sources" / "notebooks" / f"{stem}.py").read_text("utf-8")
    assert script == (paths.root() / "notebooks" / "src" / f"{stem}.py").read_text("utf-8")
    ast.parse(script)
    notebook = json.loads((built / "_sources" / "notebooks" / f"{stem}.ipynb").read_text("utf-8"))
    assert notebook["nbformat"] == 4 and any(cell["cell_type"] == "code" for cell in notebook["cells"])


def test_only_the_needed_part_of_mathjax_is_there(built):
    folder = built / "_static" / "mathjax"
    assert (folder / "tex-chtml.js").is_file()
    assert len(list((folder / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))) >= 20
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 3e6


def test_no_live_kernel_scripts(built):
    for name in PAGES:
        assert (
            "thebe"
            not in re.sub(r"<article.*</article>", "", (built / name).read_text("utf-8"), flags=re.S).lower()
        )


def test_chapters_to_come_are_listed_once(built):
    listed = [name for name in PAGES if "to come</p>" in (built / name).read_text("utf-8")]
    assert len(listed) <= 1
