"""The site's own Sphinx extension: maths offline, no launch scripts, generated tables, chapter downloads.

Named in `_config.yml`; nothing else imports it, so Sphinx is needed only to build the site.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

import site_tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

# The pip package that carries MathJax 3.2.2. Its own extension copies 15 MB; a page needs these.
MATHJAX_PACKAGE = "sphinx-mathjax-offline"
MATHJAX_PARTS = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def mathjax_folder() -> Path | None:
    """The folder of MathJax inside the installed pip package, or None when it is not installed."""
    spec = find_spec(MATHJAX_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    folders = [Path(place) / "static" / "mathjax" for place in places or ()]
    return next((folder for folder in folders if (folder / MATHJAX_PARTS[0]).is_file()), None)


class Generated(SphinxDirective):
    """`{generated} NAME`: Markdown made at build time by `site_tables.text`."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name, known = self.arguments[0], site_tables.PAGES
        if name not in known:
            raise self.error(f"no generated text is called {name!r}; there are: {', '.join(known)}")
        text = site_tables.text(name, "\n".join(self.content))
        for path in site_tables.sources(name):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _copy(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax into the site, and the plain-text twins beside the notebooks offered for download."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    twins = [twin for name in app.env.found_docs if (twin := _twin(app, name))]
    files = [(twin, out / "_sources" / "notebooks" / twin.name) for twin in twins]
    source = mathjax_folder()
    if source is None:
        log.warning("MathJax not found: pip install %s, or formulae stay raw", MATHJAX_PACKAGE)
    else:
        files += [(source / part, out / "_static" / "mathjax" / part) for part in MATHJAX_PARTS]
    for path, target in files:
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy2(path, target)


def _twin(app: Sphinx, docname: str) -> Path | None:
    path = Path(app.srcdir) / "notebooks" / "src" / f"{docname.removeprefix('notebooks/')}.py"
    return path if path.is_file() else None


def _card(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the times of reading and of the published run into a chapter's card."""
    if _twin(app, docname) is not None:
        source[0] = site_tables.card(source[0], docname.removeprefix("notebooks/"))


def _links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the downloads of a chapter, and Colab when it can be reached, under its title."""
    title = next(iter(doctree.findall(nodes.title)), None)
    if app.builder.format != "html" or _twin(app, docname) is None or title is None:
        return
    ends = (("notebook", "ipynb"), ("Python script", "py"))
    links = [f'<a href="../_sources/{docname}.{end}" download>{words}</a>' for words, end in ends]
    if app.config.nbpkg_colab:
        links.append(f'<a href="{app.config.nbpkg_colab}{docname}.ipynb">Open in Colab</a>')
    text = f'<p class="chapter-links">Download: {" · ".join(links)}</p>'
    title.parent.insert(title.parent.index(title) + 1, nodes.raw("", text, format="html"))


def _page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Drop the scripts of a live kernel: they name a CDN, and one of them fails on every page."""

    def of_thebe(file: object) -> bool:
        return "thebe" in f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', '')}".lower()

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, []) if not of_thebe(file)]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("generated", Generated)
    if mathjax_folder() is not None:
        app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.add_config_value("nbpkg_colab", "", "html", str)
    app.connect("source-read", _card)
    app.connect("doctree-resolved", _links)
    app.connect("build-finished", _copy)
    # After the other extensions have added their scripts.
    app.connect("html-page-context", _page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
