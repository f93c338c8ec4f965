# SPDX-License-Identifier: Apache-2.0
"""The page of the chat in a real browser: both answers, the noise that is shown, and nobody asked but this machine."""

import socket
import threading

import pytest

from hf_ckt.cli.chatting.words import margin
from hf_ckt.evaluation.side_by_side import Asking
from tests.browser import CHROMIUM, QUIET, needs_chromium

gradio = pytest.importorskip("gradio", reason='needs gradio: pip install "hf-ckt[ui]"')
sync_api = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "hf-ckt[dev]"')
pytestmark = needs_chromium
PROMPT = "How do I kill a process?"


@pytest.fixture(scope="module")
def served(side):
    """The page's address, and the addresses that the process which serves it has connected to."""
    from hf_ckt.cli.chatting.page import serve

    asked, connect = [], socket.socket.connect

    def noting(self, address):
        asked.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noting)
        page = serve(side, Asking(), host="127.0.0.1", port=None, share=False, prevent_thread_lock=True, quiet=True)
        yield page, asked
        page.close()


@pytest.fixture
def opened(served):
    """The page in a browser that reaches this machine alone; at the end, nothing else was asked for and nothing failed."""
    page, connected = served
    foreign, complaints = [], []

    def route(request):
        if request.request.url.startswith(page.local_url):
            return request.continue_()
        foreign.append(request.request.url)
        return request.abort()

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.set_default_timeout(60_000)
        tab.route("**/*", route)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        sync_api.expect.set_options(timeout=60_000)
        tab.goto(page.local_url)
        sync_api.expect(tab.get_by_role("button", name="Ask")).to_be_visible()
        yield tab
        sync_api.expect.set_options(timeout=5_000)  # as it is without
        browser.close()
    assert foreign == [] and complaints == []
    assert {address[0] for address in connected if isinstance(address, tuple)} <= {"127.0.0.1", "localhost", "::1"}


def _ask(tab, prompt=PROMPT):
    tab.get_by_label("Prompt", exact=True).fill(prompt)
    tab.get_by_role("button", name="Ask").click()


def _expect(tab, side, asking, prompt=PROMPT):
    """Waits until the page shows for each model what it says without a page."""
    asked = asking.asked(prompt)
    prompts = [asked] if asked == prompt else [asked, prompt]
    titles = ("base: ", "adapter: aligned")
    for entry, title in zip(side.entries, titles, strict=True):
        wanted = "".join(side.answer(entry, asked, asking)).lstrip()
        sync_api.expect(tab.get_by_label(title)).to_have_value(wanted)
        sync_api.expect(tab.get_by_label(f"Refusal margin of {entry.name}")).to_have_value(
            margin(*side.leanings(entry, prompts))
        )


def test_page_shows_both_answers_and_margins(opened, side):
    """An answer under the other model's name, or a margin of the other, turns the comparison round."""
    sync_api.expect(opened.locator("body")).to_contain_text("System prompt: “Be brief.”")
    _ask(opened)
    _expect(opened, side, Asking())


def test_page_asks_what_it_shows_under_noise(opened, side):
    """A perturbed prompt that is shown and not asked, or asked and not shown, explains another answer."""
    opened.get_by_label("Prompt", exact=True).fill(PROMPT)
    shown = opened.locator("#asked")
    sync_api.expect(shown).to_contain_text(PROMPT)
    opened.get_by_label("Noise").click()
    opened.get_by_role("option", name="typos").click()
    severity = opened.get_by_label("number input for Severity")
    severity.fill("0.4")
    severity.press("Enter")
    asking = Asking("typos", 0.4)
    sync_api.expect(shown).to_contain_text(asking.asked(PROMPT))
    marked = opened.locator("#asked .text:not(.unlabeled)").all_inner_texts()
    assert 0 < len("".join(marked)) < len(PROMPT)
    opened.get_by_role("button", name="Ask").click()
    _expect(opened, side, asking)


def test_answers_are_text_and_nothing_else(opened, side, monkeypatch):
    """An answer with a script in it, shown as HTML, runs in the browser of whoever asked."""
    hostile = "<img src=x onerror='window.hacked=1'> **bold**"
    monkeypatch.setattr(type(side), "answer", lambda *_: (piece for piece in [hostile]))
    _ask(opened, "Say something.")
    sync_api.expect(opened.get_by_label("base: ")).to_have_value(hostile)
    assert opened.evaluate("window.hacked") is None


def test_answer_streams_and_stop_ends_it(opened, side, monkeypatch):
    """A page that shows nothing before the end looks dead, and an answer that cannot be stopped keeps the next one waiting."""
    go_on, ended = threading.Event(), threading.Event()

    def endless(*_):
        try:
            yield "first "
            go_on.wait(60)
            while True:
                yield "more "
        finally:
            ended.set()

    monkeypatch.setattr(type(side), "answer", endless)
    _ask(opened)
    sync_api.expect(opened.get_by_label("base: ")).to_have_value("first ")
    assert not ended.is_set()
    opened.get_by_role("button", name="Stop").click()
    go_on.set()
    assert ended.wait(60)


def test_page_is_of_this_machine_alone(served):
    """Gradio's own default listens here too, but a page that listens everywhere shows a model to the whole network."""
    page, _ = served
    assert page.server_name == "127.0.0.1" and page.share_url is None and not page.analytics_enabled


def test_screenshot_shows_something(opened, tmp_path):
    """A page whose style is fetched from elsewhere is bare without network, and no other test looks at it."""
    from PIL import Image

    opened.screenshot(path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        colours = picture.convert("RGB").getcolors(1200 * 900)
    assert picture.size == (1200, 900) and len(colours) > 100
