# SPDX-License-Identifier: Apache-2.0
"""The chat in a terminal and from a pipe: what is asked, what a command changes, and what Ctrl-C ends."""

import _thread
import io
import signal

import pytest
from rich.console import Console

from hf_ckt.cli.chatting.terminal import Chat
from hf_ckt.cli.chatting.words import margin
from hf_ckt.evaluation.side_by_side import Asking

PROMPT = "How do I kill a process?"
CLEAN = Asking()


@pytest.fixture
def chat(side):
    """Makes a chat whose console writes to `console.file`."""

    def make(asking=CLEAN, **settings):
        file = io.StringIO()
        return Chat(side, asking, Console(file=file, highlight=False, width=100, **settings))

    return make


def _lines(texts):
    """What a terminal reads, to its end; an exception in the list is raised."""
    following = iter(texts)

    def read():
        text = next(following, EOFError())
        if isinstance(text, BaseException):
            raise text
        return text

    return read


def _piped(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def _answer(side, number, prompt=PROMPT, asking=CLEAN):
    return "".join(side.answer(side.entries[number], prompt, asking)).strip()


def test_pipe_answers_line_by_line(chat, side, monkeypatch, capsys):
    """A script needs every answer, under the name of its model, with nothing of the introduction between them."""
    _piped(monkeypatch, f"{PROMPT}\n\n  /usr, what is it?\n/quit\nnever asked\n")
    one = chat()
    one.run()
    blocks = one.console.file.getvalue().strip().split("\n\n")
    for prompt, block in zip((PROMPT, "/usr, what is it?"), blocks, strict=True):
        margins = [margin(*side.leanings(entry, [prompt])) for entry in side.entries]
        base, aligned = (_answer(side, number, prompt) for number in (0, 1))
        assert block.startswith(f"prompt: {prompt}\nbase: ")
        assert (
            f", refusal margin {margins[0]}\n{base}\nadapter: aligned, refusal margin {margins[1]}\n{aligned}" in block
        )
    told = capsys.readouterr().err
    assert "adapter: aligned | backbone in float32" in told and "System prompt: “Be brief.”" in told


def test_pipe_ends_at_a_command_that_is_wrong(chat, monkeypatch):
    """The prompts after a misspelt command would be asked under other noise than the script says."""
    _piped(monkeypatch, f"/noise typo 0.3\n{PROMPT}\n")
    one = chat()
    with pytest.raises(ValueError, match="Did you mean 'typos'"):
        one.run()
    assert "prompt:" not in one.console.file.getvalue()


def test_commands_change_how_the_next_prompt_is_asked(chat, side):
    """A command that is acknowledged and not obeyed shows one noise and asks another."""
    one = chat()
    one.converse(
        _lines(["/noise typos 0.4", "/seed 3", PROMPT, "/noise wrapper", "/temperature 0.5", "/noise off", "/quit"])
    )
    asking = Asking("typos", 0.4, 3)
    noisy = asking.asked(PROMPT)
    printed = one.console.file.getvalue()
    assert f"prompt: {noisy}  (typos 0.4, seed 3)" in printed and noisy != PROMPT
    for number, entry in enumerate(side.entries):
        assert margin(*side.leanings(entry, [noisy, PROMPT])) in printed
        assert _answer(side, number, noisy) in printed
    told = [
        "Noise: typos 0.4, seed 0. ",
        "typos 0.4, seed 3. ",
        "wrapper 1, seed 3. ",
        "Decoding: temperature 0.5, seed 3.",
    ]
    assert all(text in printed for text in told)
    assert one.asking == Asking(None, None, 3, 0.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nose typos", "unknown name 'nose'. Did you mean 'noise'?"),
        ("/", "unknown name ''"),
        ("/noise", "/noise: has 0 words behind it"),
        ("/noise typos much", "/noise: 'much' is no number"),
        ("/noise typos 2", "severity: must lie in [0, 1]"),
        ("/noise gaussian", "Use one of text"),
        ("/seed 1.5", "/seed: '1.5' is no number"),
        ("/temperature -1", "temperature: must lie in"),
        ("/temperature 1e-30", "temperature: must be 0 or at least 0.001"),
        ("/seed 99999999999999999999", "seed: must be at most"),
        ("h\udcff", "prompt: holds bytes that are not UTF-8"),
    ],
)
def test_wrong_command_is_said_and_the_talk_goes_on(chat, line, message):
    """A typing error that ends the program loads the model anew; one that is ignored leaves other settings in force."""
    one = chat(Asking("typos", 0.2))
    one.converse(_lines([line, "/help"]))
    printed = " ".join(one.console.file.getvalue().split())
    assert message in printed and printed.endswith("with a space before it.")
    assert one.asking == Asking("typos", 0.2)


def test_decoding_that_is_said_is_the_one_in_force(chat, side, monkeypatch):
    """The word greedy above answers that a model's own configuration draws explains why they differ by nothing."""
    for keep, said in ((False, "Decoding: greedy."), (True, "Decoding: each model's own generation configuration.")):
        monkeypatch.setattr(side, "keep_generation_config", keep)
        one = chat()
        one.converse(_lines(["/seed 1"]))
        assert said in one.console.file.getvalue()


def test_prompt_that_does_not_fit_in_memory_ends_no_talk(chat, side, monkeypatch):
    """Memory is torch's to say, as a RuntimeError; a shorter prompt would fit."""

    def full(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(side), "leanings", full)
    one = chat()
    one.converse(_lines([PROMPT, "/seed 1"]))
    assert "out of memory" in one.console.file.getvalue() and one.asking.seed == 1


@pytest.fixture
def interrupted(side, monkeypatch):
    """The first answer is interrupted after its first word, as by Ctrl-C; the others are whole."""
    answers = iter([True, False, False, False])

    def answer(*_):
        yield "one "
        if next(answers):
            _thread.interrupt_main()
        yield "two "
        yield "three"

    monkeypatch.setattr(type(side), "answer", answer)
    # A run in the background is started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_an_answer_and_not_the_program(chat, interrupted):
    """Who stops a long answer wants the next one, and not to load the model again."""
    one = chat()
    one.converse(_lines([PROMPT, KeyboardInterrupt(), PROMPT]))
    printed = one.console.file.getvalue()
    assert printed.count("… (stopped)") == 1 and printed.count("one two three") == 3
    assert "(/quit, or Ctrl-D, leaves)" in printed


def test_ctrl_c_while_an_answer_is_drawn_ends_it_alone(chat, side, monkeypatch):
    """Most of the time goes by between two words, where an interrupt does not come from the answer."""
    from rich.live import Live

    draw, drawn = Live.update, []

    def update(live, *values, **options):
        draw(live, *values, **options)
        drawn.append(1)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Live, "update", update)
    monkeypatch.setattr(type(side), "answer", lambda *_: (word for word in ("one ", "two ", "three")))
    one = chat(force_terminal=True, color_system=None)
    one.converse(_lines([PROMPT]))
    last = one.console.file.getvalue().rpartition("base: ")[2]
    assert "one two … (stopped)" in last and "one two three" in last


def test_ctrl_c_ends_a_script(chat, interrupted, monkeypatch):
    """A script that goes on after Ctrl-C has to be killed."""
    _piped(monkeypatch, f"{PROMPT}\n{PROMPT}\n")
    with pytest.raises(KeyboardInterrupt):
        chat().run()


def test_terminal_shows_both_answers_beside_each_other(chat, side):
    """One below the other, the two are not compared at a glance."""
    one = chat(force_terminal=True, color_system=None)
    one.converse(_lines([PROMPT]))
    frames = one.console.file.getvalue().split("base: ")[1:]
    assert all("adapter: aligned" in frame.partition("\n")[0] for frame in frames)
    assert len(frames) > 4, "the answers are not redrawn while they grow"
    last = frames[-1]
    for entry in side.entries:
        assert f"refusal margin {side.leanings(entry, [PROMPT])[0].margin:+.2f} nats" in last


def test_answer_cannot_command_the_terminal(chat, side, monkeypatch):
    """An escape sequence that a model writes can clear the screen or retitle the window."""
    monkeypatch.setattr(type(side), "answer", lambda *_: (piece for piece in ("\x1b[2J\x9b1m", "a\nb")))
    for terminal in (False, True):
        one = chat(force_terminal=terminal, color_system=None)
        one.converse(_lines([PROMPT]))
        printed = one.console.file.getvalue()
        assert "\x1b[2J" not in printed and "\x9b" not in printed and "␛[2J" in printed


def test_changed_letters_are_marked_in_a_terminal(chat):
    """Homoglyphs look like the letters that they stand for."""
    one = chat(Asking("homoglyphs", 0.3), force_terminal=True, color_system="standard")
    one.converse(_lines([PROMPT]))
    assert "\x1b[1;4m" in one.console.file.getvalue()
