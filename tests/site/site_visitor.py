"""What the tests of the site share: the pages there must be, a browser that notes what they do and say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nbpkg import paths
from nbpkg.book import site

HERE = Path(__file__).parent
# Not pages that people read: the redirect at the root, and what Sphinx adds.
EXTRA = {"index.html", "genindex.html", "search.html"}


def page_names() -> list[str]:
    """The pages that `_toc.yml` promises, as paths below the site's folder."""
    names = ["book/start", *(file for part in site.toc_parts(paths.root()).values() for file in part)]
    return [f"{name}.html" for name in names]


PAGES = page_names()
CHAPTERS = [name for name in PAGES if name.startswith("notebooks/")]


#: How a page is looked at: name, width of the window in pixels, colour scheme of the machine.
VIEWS = {"wide": (1400, "light"), "dark": (1400, "dark"), "phone": (390, "light")}


@dataclass
class Visit:
    """What happened while a page was open, and what the page says about itself in each view."""

    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    views: dict[str, dict] = field(default_factory=dict)


class Visitor:
    """Opens the site's pages below one address; refuses and notes every request that leaves the site."""

    def __init__(self, browser, base: str):
        self.base, self.seen, self.current = base, {}, Visit()
        self.context = browser.new_context()
        self.context.set_default_timeout(120_000)
        self.context.route("**/*", self._judge)
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.current.complaints.append(str(error)))
        self.page.on("requestfailed", self._miss)

    def _judge(self, route):
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.current.outside.append(url)
            route.abort()

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.current.complaints.append(f"{message.type}: {message.text}")

    def _miss(self, request):
        # Going on to the next page cancels what is still on its way, such as the icon: no fault of the page.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.current.complaints.append(f"failed: {request.url}")

    def look(self, view: str) -> None:
        """Set the window and the colour scheme; the open page follows."""
        width, scheme = VIEWS[view]
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")

    def open(self, name: str, view: str = "wide") -> Visit:
        """The page `name`, fully drawn: scripts run, formulae typeset, pictures and fonts loaded."""
        self.current = Visit()
        self.look(view)
        self.page.goto(self.base + name, wait_until="load")
        self.page.evaluate(
            "() => window.MathJax?.startup?.promise.then(() => document.fonts.ready).then(() => true)"
        )
        return self.current

    def visit(self, name: str) -> Visit:
        """As `open`, with the facts of every view; each page is loaded once."""
        if name not in self.seen:
            found = self.open(name)
            self.page.add_script_tag(content=(HERE / "facts.js").read_text("utf-8"))
            for view in VIEWS:
                self.look(view)
                self.page.wait_for_timeout(250)  # the theme fades from one colour scheme to the other
                found.views[view] = self.page.evaluate("() => siteFacts()")
            self.seen[name] = found
        return self.seen[name]
