"""Every page in a real browser: complete without a network, readable in light, in dark and on a phone."""

import io
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from site_visitor import CHAPTERS, PAGES, VIEWS

each_page = pytest.mark.parametrize("name", PAGES)


@each_page
def test_nothing_is_fetched_from_outside_and_nothing_complains(visitor, name):
    seen = visitor.visit(name)
    assert seen.outside == []
    assert seen.complaints == []


@each_page
def test_every_formula_is_typeset(visitor, name):
    for facts in visitor.visit(name).views.values():
        assert facts["typeset"] == facts["formulae"]
        assert facts["broken"] == [] and facts["fonts"] == [] and facts["raw"] == 0 and facts["flat"] == 0


@each_page
def test_equation_numbers_stand_clear_of_the_formulae(from_disk, name):
    for view, facts in from_disk.visit(name).views.items():
        assert facts["colliding"] == [], view


@each_page
def test_formulae_fit_a_wide_page(from_disk, name):
    assert from_disk.visit(name).views["wide"]["cramped"] == [], "break the formula into two lines"


def test_some_page_has_formulae(from_disk):
    facts = from_disk.visit("book/notation.html").views["wide"]
    assert facts["formulae"] > 20 and facts["numbered"] == 1


@each_page
def test_text_has_contrast(visitor, name):
    for view, facts in visitor.visit(name).views.items():
        assert facts["texts"] > 20
        assert facts["weak"] == [], view


def test_the_colour_scheme_of_the_machine_is_followed(visitor):
    views = visitor.visit(PAGES[0]).views
    assert [views[view]["mode"] for view in VIEWS] == ["light", "dark", "light"]


def test_the_button_changes_the_colours(from_server):
    from_server.open(PAGES[0])
    ground = "() => getComputedStyle(document.body).backgroundColor"
    seen = {from_server.page.evaluate(ground)}
    for _ in range(3):
        from_server.page.locator("button.theme-switch-button").first.click()
        from_server.page.wait_for_timeout(250)
        seen.add(from_server.page.evaluate(ground))
    from_server.page.evaluate("() => localStorage.clear()")
    assert len(seen) == 2


@each_page
def test_no_page_needs_sideways_scrolling(visitor, name):
    for view, facts in visitor.visit(name).views.items():
        assert facts["overflow"] <= 0, (view, facts["sticking"])


@each_page
def test_pictures_are_there_and_described(visitor, name):
    for picture in visitor.visit(name).views["wide"]["pictures"]:
        assert picture["loaded"], picture
        words = (picture["alt"] or "").split()
        assert len(words) >= 3, picture
        assert not re.search(r"[0-9a-f]{16}|\.(png|svg)$", picture["alt"]), picture


@each_page
def test_headings_form_an_outline(from_disk, name):
    facts = from_disk.visit(name).views["wide"]
    levels = facts["headings"]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert facts["language"] == "en"


@each_page
def test_code_can_be_copied(from_disk, name):
    facts = from_disk.visit(name).views["wide"]
    assert facts["buttons"] == facts["blocks"]


def test_the_copy_button_copies_the_code(browser, server):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(server + "book/how-to-use.html")
    block = page.locator("div.highlight").filter(has_text="make book").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_timeout(250)
    copied = page.evaluate("() => navigator.clipboard.readText()")
    context.close()
    assert copied.startswith("make book") and "make test" in copied


def test_search_finds_words_and_only_words_that_are_there(visitor):
    seen = visitor.open("search.html?q=hypergradient")
    visitor.page.wait_for_selector("#search-results li a")
    links = visitor.page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.pathname)")
    assert any(link.endswith("/book/map.html") for link in links)
    visitor.page.wait_for_timeout(250)
    assert seen.outside == [] and seen.complaints == []
    visitor.open("search.html?q=xyzzyplugh")
    visitor.page.wait_for_selector("#search-results p.search-summary")
    visitor.page.wait_for_timeout(250)
    assert visitor.page.locator("#search-results li").count() == 0


def test_the_menu_opens_on_a_phone(from_disk):
    from_disk.open(PAGES[0], view="phone")
    entry = from_disk.page.locator("a[href$='map.html']").first
    assert not entry.is_visible()
    from_disk.page.locator(".primary-toggle").first.click()
    entry.wait_for(state="visible")


def test_pictures_keep_their_contrast_in_the_dark(from_disk):
    pictures = [
        ("book/map.html", "img.book-picture"),
        *((name, ".cell_output figure img") for name in CHAPTERS),
    ]
    for name, selector in pictures:
        from_disk.open(name, view="dark")
        shot = from_disk.page.locator(selector).first.screenshot()
        shades = np.asarray(Image.open(io.BytesIO(shot)).convert("L"), float) / 255
        light, ink = (np.quantile(shades, q) ** 2.2 for q in (0.9, 0.002))
        assert (light + 0.05) / (ink + 0.05) >= 4.5, name


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_and_drawing_code_are_folded(from_disk, name):
    from_disk.open(name)
    page = from_disk.page
    states = page.eval_on_selector_all("div.tag_hide-input details", "all => all.map(d => d.open)")
    assert states and not any(states)
    first = page.locator("div.tag_hide-input details").first
    first.locator("summary").click()
    assert first.locator("pre").first.is_visible()
