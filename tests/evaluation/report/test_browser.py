# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: nothing leaves it, harmful text stays folded, and it can be read and worked by all."""

import pytest

from hf_ckt.evaluation.report import write_report
from tests.browser import CHROMIUM, QUIET, needs_chromium
from tests.evaluation.report import made_up

sync_api = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "hf-ckt[dev]"')
pytestmark = needs_chromium
_HARMFUL = "landlord pay me twice"

# Contrast of each text that is shown against what is painted behind it; a canvas turns any notation of a colour into bytes.
_CONTRASTS = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("script, style, noscript, option")) continue;
    const style = getComputedStyle(node);
    const [one, two] = [light(rgba(node instanceof SVGElement ? style.fill : style.color)), light(behind(node))];
    found.push([(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), node.className?.baseVal ?? node.className, walker.currentNode.textContent]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = made_up.write(tmp_path_factory.mktemp("report"))
    write_report(folder, plots=False)
    return folder / "report.html"


@pytest.fixture
def open_page(browser, report):
    """Opens the report, and at the end holds that it asked for nothing and complained of nothing."""
    contexts, requests, complaints = [], [], []

    def open_(width=1200, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(report.as_uri())
        return page

    yield open_
    hacked = [page.evaluate("window.hacked") for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert [url for url in requests if url != report.as_uri() and url != "data:,"] == []
    assert complaints == [] and hacked == [None] * len(hacked)


def _count(page, text):
    """Waits until the live count says so."""
    sync_api.expect(page.get_by_role("status")).to_have_text(text)


def _show_all(page):
    page.get_by_label("Rows a page").select_option("100")
    sync_api.expect(page.locator("#page")).to_have_text("Page 1 of 1")


def test_search_narrows_the_table_and_says_so(open_page):
    """A search that only hides rows of the page at hand finds nothing on the others, and is silent to a screen reader."""
    page = open_page()
    _count(page, "46 of 46 prompts match")
    assert page.locator("#table tbody tr").count() == 10
    page.get_by_label("Search prompts and answers").fill("GARLIC")
    _count(page, "5 of 46 prompts match")
    assert page.locator("#table tbody tr").count() == 5
    assert page.locator("#table mark").all_inner_texts() == ["garlic"] * 5
    page.get_by_label("Search prompts and answers").fill("no such words")
    _count(page, "0 of 46 prompts match")
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    page.get_by_role("button", name="Clear filters").click()
    _count(page, "46 of 46 prompts match")


def test_filters_agree_with_the_rows(open_page):
    """A filter that looks at another model's verdict than the one beside it shows the wrong answers."""
    page = open_page()
    rows = made_up.rows()
    for title, name in (("SFT", "sft"), ("full objective", "full")):
        page.locator("#model").select_option(title)
        for words, wanted in (("refused", True), ("answered", False)):
            page.get_by_label("Verdict", exact=True).select_option(words)
            expected = sum(row["refused"] is wanted for row in rows if row["model"] == name)
            _count(page, f"{expected} of 46 prompts match")
        sync_api.expect(page.locator("#table thead")).to_contain_text(f"Answer of {title}")
    page.get_by_label("Verdict", exact=True).select_option("changed")
    pairs = zip(*([row["refused"] for row in rows if row["model"] == name] for name in ("base", "full")), strict=True)
    _count(page, f"{sum(one != other for one, other in pairs)} of 46 prompts match")
    page.get_by_label("Verdict", exact=True).select_option("")
    for label, option, key, value in (
        ("Suite", "jailbreak", "suite", "jailbreak"),
        ("Category", "property_damage", "category", "property_damage"),
        ("Corruption", "typos", "corruption", "typos"),
    ):
        page.get_by_label(label, exact=True).select_option(option)
        expected = sum(row[key] == value for row in rows if row["model"] == "base")
        _count(page, f"{expected} of 46 prompts match")
        page.get_by_label(label, exact=True).select_option("")


def test_pages_turn_and_end(open_page):
    """A last page that cannot be reached hides its rows; one beyond it is empty."""
    page = open_page()
    seen = []
    for number in range(1, 6):
        sync_api.expect(page.locator("#page")).to_have_text(f"Page {number} of 5")
        seen += page.locator("#table tbody tr").all_text_contents()
        assert page.get_by_role("button", name="Previous page").is_disabled() == (number == 1)
        if number < 5:
            page.get_by_role("button", name="Next page").click()
    assert page.get_by_role("button", name="Next page").is_disabled()
    assert len(seen) == 46


def test_harmful_text_is_hidden_until_it_is_asked_for(open_page):
    """Who opens a report of safety at a screen that others see must not be shown the worst of it."""
    page = open_page()
    _show_all(page)
    assert _HARMFUL not in page.inner_text("body") and "smash garlic" in page.inner_text("body")
    harmful = [row for row in made_up.rows() if row["model"] == "base" and row["kind"] == "harmful"]
    folds = page.locator("#table details")
    assert folds.count() == 3 * len(harmful) and page.locator("#table details[open]").count() == 0
    page.locator("#table summary").first.click()
    sync_api.expect(page.locator("#table details[open]")).to_have_count(3)  # the row's prompt and both answers
    assert page.inner_text("#table").count(_HARMFUL) == 1
    page.get_by_role("switch", name="Show harmful text").check()
    sync_api.expect(page.locator("#table details[open]")).to_have_count(3 * len(harmful))
    assert page.inner_text("#table").count(_HARMFUL) == sum(_HARMFUL in row["prompt"] for row in harmful)
    page.get_by_role("switch", name="Show harmful text").uncheck()
    sync_api.expect(page.locator("#table details[open]")).to_have_count(0)
    assert _HARMFUL not in page.inner_text("body")


def test_answers_are_text_and_nothing_else(open_page):
    """An answer with a script in it, shown as HTML, runs in the browser of whoever reads the report."""
    page = open_page()
    page.locator("#model").select_option("full objective")
    page.get_by_label("Search prompts and answers").fill("onerror")
    _count(page, "1 of 46 prompts match")
    assert made_up.HOSTILE in page.locator("#table tbody tr td").nth(2).text_content()
    assert page.locator("#table img, #table script").count() == 0
    assert page.evaluate("document.scripts.length") == 2


def test_page_works_with_the_keyboard_alone(open_page):
    """A control that only a mouse reaches is closed to many readers, and a focus that is not seen is lost."""
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    outlined = "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; })()"

    def tab_to(there, most=60):
        for _ in range(most):
            page.keyboard.press("Tab")
            assert page.evaluate(outlined), page.evaluate("document.activeElement.outerHTML.slice(0, 80)")
            if page.evaluate(there):
                return
        raise AssertionError(f"never reached: {there}")

    tab_to("document.activeElement.matches('.behind summary')")
    page.keyboard.press("Enter")
    assert page.locator(".behind[open] table").first.is_visible()
    tab_to("document.activeElement.id === 'search'")
    page.keyboard.type("sister")
    _count(page, "7 of 46 prompts match")
    tab_to("document.activeElement.matches('#table summary')")
    page.keyboard.press("Space")
    sync_api.expect(page.locator("#table details[open]")).to_have_count(3)


def test_text_can_be_read_in_light_and_dark_and_by_the_button(open_page):
    """Grey on grey passes every eye that made it; WCAG AA asks for 4.5 to 1."""
    grounds = {}
    for scheme in ("light", "dark"):
        page = open_page(scheme=scheme)
        page.get_by_role("switch").check()
        page.locator(".behind").first.evaluate("node => { node.open = true; }")
        for _ in range(2):  # as the system says, and as the button says
            found = page.evaluate(_CONTRASTS)
            assert len(found) > 400
            assert [one for one in found if one[0] < 4.5] == []
            grounds.setdefault(scheme, []).append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.get_by_role("button", name="colours").click()
    assert grounds["light"] == grounds["dark"][::-1] and len(set(grounds["light"])) == 2


@pytest.mark.parametrize("width", [320, 400])
def test_narrow_page_scrolls_down_and_never_sideways(open_page, width):
    """On a phone, one table that is too wide makes every line of the page too wide."""
    page = open_page(width=width)
    page.get_by_role("switch").check()
    page.evaluate("document.querySelectorAll('.behind').forEach((fold) => { fold.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#table tbody tr td").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.get_by_role("row").count() > 10  # laid out as blocks, it is still a table


def test_pair_is_chosen_and_all_can_be_shown(open_page):
    """Six tables one below the other hide the one that is looked for; a selector that shows the wrong one is worse."""
    page = open_page()
    shown = page.locator(".pair:visible")
    sync_api.expect(shown).to_have_count(1)
    assert shown.locator("caption").inner_text() == "full objective against SFT"
    assert [text.strip() for text in shown.locator("thead th").all_inner_texts()][1:3] == ["SFT", "full objective"]
    page.get_by_label("Compare", exact=True).select_option("SFT against base")
    sync_api.expect(shown).to_have_count(1)
    assert shown.locator("caption").inner_text() == "SFT against base"
    page.get_by_label("Compare", exact=True).select_option("all pairs")
    sync_api.expect(shown).to_have_count(3)


def test_pairs_are_all_there_without_the_script(browser, report):
    """What a script folds away is gone for a reader who runs none."""
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".pair:visible").count() == 3 and page.locator("#pair-choice").is_hidden()
    context.close()


def test_prompt_that_was_not_kept_is_no_empty_prompt(browser, tmp_path):
    """'(empty)' where a public set's prompt was left out says that the model was asked nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = made_up.write(tmp_path)
    rows = [row | {"prompt": "", "request": ""} for row in made_up.rows()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions.parquet")
    write_report(folder, plots=False)
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    shown = page.locator("#table tbody tr")
    assert shown.count() > 0
    assert [row.locator("td").first.inner_text() for row in shown.all()] == ["not kept"] * shown.count()
    context.close()


_LONG = ("an-organisation/an-adapter-with-a-name-of-eighty-letters-that-nobody-would-ever-say-0", "unbroken_" * 9)


@pytest.mark.parametrize("width", [320, 400, 1200])
@pytest.mark.parametrize("models", [2, 3])
def test_long_title_leaves_the_button_and_the_page_in_place(browser, tmp_path, width, models):
    """An adapter's title of 80 letters pushed the button of the colours out of the window, and the page went sideways."""
    results = made_up.results(teacher=False)
    results["models"] = dict(list(results["models"].items())[:models])
    for model, title in zip(list(results["models"].values())[:0:-1], _LONG[::-1], strict=False):
        model["title"] = title
    folder = made_up.write(tmp_path, results)
    write_report(folder, plots=False)
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('.behind').forEach((fold) => { fold.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#theme").bounding_box()
    title = page.locator("h1").bounding_box()
    assert box["x"] + box["width"] <= width and title["x"] + title["width"] <= box["x"]
    assert page.locator("h1").evaluate("node => node.scrollWidth <= node.clientWidth")
    context.close()


@pytest.mark.parametrize(
    "name,width,scheme", [("light", 1200, "light"), ("dark", 1200, "dark"), ("narrow", 400, "light")]
)
def test_screenshot_shows_something(open_page, tmp_path, name, width, scheme):
    """A page whose style or script was refused by its own policy is blank or bare, and no other test looks at it."""
    from PIL import Image

    page = open_page(width=width, scheme=scheme)
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.width == width and picture.height > 3000
        colours = picture.convert("RGB").resize((200, 600)).getcolors(200 * 600)
    assert len(colours) > 100
    ground = max(colours)[1]
    assert (sum(ground) > 600) == (scheme == "light")


def test_print_leaves_out_the_controls(open_page):
    """On paper, filters and buttons are noise, and a dark ground wastes ink."""
    page = open_page(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not any(page.locator(one).is_visible() for one in ("#filters", "#theme", ".pages", "body > nav"))
    assert page.locator("#table").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
