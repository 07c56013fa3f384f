"""The real site, built once with every warning as an error, and a real browser that looks at its pages."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from site_visitor import Visitor

from nbpkg.book import site

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The folder of the freshly built site; the build itself fails on any warning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NBPKG_REPOSITORY", raising=False)
        return site.build("published", strict=True, out=tmp_path_factory.mktemp("site") / "html")


@pytest.fixture(scope="session")
def server(built):
    """The site served from this machine; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, or a skip that says what is missing."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(
            f"no browser on this machine (looked for {', '.join(BROWSERS)}): install chromium to run this"
        )
    sync = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    quiet = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync.sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *quiet])
        yield running
        running.close()


@pytest.fixture(scope="session")
def from_disk(browser, built):
    """The site opened as files, as after a download."""
    visitor = Visitor(browser, built.as_uri() + "/")
    yield visitor
    visitor.context.close()


@pytest.fixture(scope="session")
def from_server(browser, server):
    """The site opened over HTTP."""
    visitor = Visitor(browser, server)
    yield visitor
    visitor.context.close()


@pytest.fixture(scope="session", params=["from_disk", "from_server"])
def visitor(request) -> Visitor:
    """Both ways to open the site in turn."""
    return request.getfixturevalue(request.param)
