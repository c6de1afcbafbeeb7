"""The page in a real browser: Debian's Chromium, driven by Playwright; skipped without it."""

import os
import re
import shutil
import warnings

import pytest

BROWSER = os.environ.get("MIXBCT_BROWSER") or shutil.which("chromium")
TOKEN = "a token of the tests alone"
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium"),
    # Playwright's loop and pipes end in their own way
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with playwright.sync_playwright() as driver:
            opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            yield opened
            opened.close()


@pytest.fixture
def page(browser):
    """A page 360 pixels wide; whatever it complains of fails the test."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    complaints = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    yield opened
    context.close()
    # what a refused request says by itself is no complaint
    assert [each for each in complaints if "status of 4" not in each] == []


def test_a_search_a_switch_a_backfill_a_rollback_and_an_error(page, serve, gallery, made):
    page.goto(serve(gallery))
    found = page.locator("#found")

    def search():
        page.get_by_role("button", name="Search", exact=True).click()

    # by upload
    page.get_by_label("Image", exact=True).first.set_input_files(made.folder / "data/class1/2.png")
    page.get_by_label("Hits", exact=True).fill("4")
    search()
    hits = page.get_by_role("list", name="Found by old").get_by_role("listitem")
    hits.first.wait_for()
    assert hits.count() == 4
    assert "class1/2.png" in hits.first.inner_text()
    picture = hits.first.locator("img")
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth") == 60

    # by the keyboard: another way to search, and an error that is said aloud
    page.get_by_label("an image", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("nobody")
    page.keyboard.press("Enter")
    alert = found.get_by_role("alert")
    alert.wait_for()
    assert "no item 'nobody'" in alert.inner_text()
    page.get_by_label("Key", exact=True).first.fill("class0/1.png")
    search()
    found.get_by_text("class0/1.png, by old").wait_for()
    page.get_by_label("a vector").check()
    page.get_by_label("Numbers, as JSON").fill(str(made.vectors["old"][0].tolist()))
    search()
    found.get_by_text("vector, by old").wait_for()

    # a switch: looked at, refused without its edge, asked for, done
    page.get_by_text("Switch to another model").click()
    page.get_by_role("combobox", name="Model").select_option("new")
    page.get_by_role("button", name="Look first").click()
    page.locator("#planned").get_by_text("no passed gate").wait_for()
    page.get_by_label("Edges that the gate wrote").set_input_files(made.folder / "edge.json")
    page.get_by_role("button", name="Look first").click()
    page.locator("#planned").get_by_text("Would be searched by").wait_for()
    page.get_by_role("button", name="Switch …").click()
    page.get_by_role("button", name="No, leave it").click()
    assert gallery.query_model().contract == made.old.contract
    page.get_by_role("button", name="Switch …").click()
    page.get_by_role("button", name="Yes, do it").click()
    page.locator("#changed").get_by_text("Searched by new").wait_for()
    page.locator("#by").get_by_text("new").wait_for()
    assert gallery.query_model().contract == made.new.contract

    # numbers that were typed for the old model are not taken for the new one's
    search()
    found.get_by_role("alert").get_by_text("old").first.wait_for()
    page.get_by_label("Numbers, as JSON").fill("")
    page.get_by_text("Numbers, as JSON, of new").wait_for()
    page.get_by_label("an image", exact=True).check()

    # a backfill by somebody else, as it goes
    keys, labels = made.source.keys(), ["x"] * 12
    for rows in (slice(0, 3), slice(3, 9)):
        vectors = made.vectors["new"][rows]
        gallery.enrol(keys[rows], labels[rows], vectors, made.new.contract, replace=True)
        done = re.compile(f"^{rows.stop} of 12 items .*embedded by the query model")
        page.get_by_text(done).wait_for()
    bar = page.get_by_role("progressbar", name="new")
    assert float(bar.get_attribute("value")) == 0.75
    # the old model beside the new one
    page.get_by_label("Image", exact=True).first.set_input_files(made.folder / "data/class1/2.png")
    page.get_by_label("the same by old").check()
    search()
    page.get_by_role("list", name="Found by old").wait_for()
    assert page.get_by_role("list", name="Found by new").count() == 1

    # a rollback asks first, and says what comes back
    page.get_by_role("button", name="Roll back to old …").click()
    dialog = page.get_by_role("dialog", name="Roll back to old")
    dialog.wait_for()
    assert "get their earlier vectors back" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert gallery.query_model().contract == made.new.contract
    page.get_by_role("button", name="Roll back to old …").click()
    page.get_by_role("button", name="Yes, do it").click()
    page.locator("#changed").get_by_text("9 items have their earlier vectors back").wait_for()
    page.get_by_text("12 of 12 items").wait_for()
    assert gallery.query_model().contract == made.old.contract

    # nothing sticks out of a narrow page, and everything to be used has a name
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    unnamed = page.locator("input:visible, select:visible, textarea:visible").evaluate_all(
        "every => every.filter(each => !each.labels.length).length"
    )
    assert unnamed == 0


def test_with_a_token_a_form_lets_in(page, serve, gallery, made):
    url = serve(gallery, token=TOKEN)
    page.goto(url)
    page.get_by_label("Token").fill("wrong, but long enough")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("not the token").wait_for()
    background = page.evaluate("getComputedStyle(document.querySelector('section')).borderRadius")
    assert background == "10px"  # the style has come, by its digest
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_text("Enrol an image").click()
    page.get_by_label("Image", exact=True).last.set_input_files(made.folder / "data/class1/2.png")
    page.get_by_label("Key", exact=True).nth(1).fill("mine")
    page.get_by_role("button", name="Enrol", exact=True).click()
    page.locator("#stored").get_by_text("1 items enrolled").wait_for()
    assert gallery.status().rows == 13
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").wait_for()


def test_the_page_is_dark_where_that_is_wanted(browser, serve, gallery):
    url, seen = serve(gallery), []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(url)
        seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert seen == ["rgb(245, 246, 248)", "rgb(20, 23, 27)"]
