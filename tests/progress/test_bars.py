# SPDX-License-Identifier: Apache-2.0
"""Progress bars: drawn over in a terminal, whole lines elsewhere, and the time that is left of a whole."""

import io

import pytest

from hf_ckt.progress import bars
from hf_ckt.progress.bars import ProgressBar, parts_of_a_whole


class Terminal(io.StringIO):
    """A terminal of no particular width."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told to."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    one = Clock()
    monkeypatch.setattr(bars, "time", one)
    monkeypatch.setattr("tqdm.std.time", one)
    return one


def work(clock, steps, seconds, file, **kwargs):
    """A bar whose steps take so many seconds each."""
    for _ in ProgressBar(range(steps), file=file, unit="batch", **kwargs):
        clock.now += seconds


def test_bar_in_a_file_is_whole_lines_and_few_of_them(clock):
    """A log file of a thousand returns has one line, of which an editor shows nothing and `tail` all."""
    file = io.StringIO()
    work(clock, 100, 1.0, file, desc="reading")
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue()
    assert lines[-1] == "reading: 100/100 batches in 100 s" and 3 <= len(lines) <= 4
    assert lines[0].startswith("reading: 30/100 batches, about 70 s left")


def test_bar_in_a_terminal_is_drawn_over(clock):
    """Lines there would scroll away what was said before."""
    file = Terminal()
    work(clock, 5, 1.0, file, desc="reading")
    states = file.getvalue().split("\r")
    assert file.getvalue().count("\n") == 1 and len(states) > 5
    assert "3/5 batches, about 2.0 s left" in file.getvalue()


def test_work_that_was_broken_off_says_nothing_after_its_error():
    """The line would stand where the reason is looked for: at the end of the log."""
    file = io.StringIO()
    with pytest.raises(RuntimeError):
        for number in ProgressBar(range(5), file=file, desc="reading"):
            if number == 3:
                raise RuntimeError
    assert file.getvalue() == ""


def test_bar_without_a_known_total_counts(clock):
    """A stream of rows has no end that is known before."""
    file = io.StringIO()
    work(clock, 40, 1.0, file, desc="rows", total=float("inf"))
    assert file.getvalue().splitlines()[-1] == "rows: 40 batches in 40 s"
    drawn = Terminal()
    work(clock, 2, 1.0, drawn, total=float("inf"))
    assert "2 batches" in drawn.getvalue()


def test_file_that_only_writes_gets_lines(clock):
    """What copies the output into a log has `write` and `flush`; a training would end at its first bar."""

    class Copy:
        written = ""

        def write(self, text):
            self.written += text

        def flush(self):
            pass

    file = Copy()
    work(clock, 3, 1.0, file, desc="reading")
    assert file.written == "reading: 3/3 batches in 3.0 s\n"


def test_more_work_than_was_said_leaves_no_less_than_nothing(clock):
    """A negative time would be taken off what the whole still needs."""
    with parts_of_a_whole([("read", 4.0), ("train", 10.0)], io.StringIO()):
        bar = ProgressBar(total=2, desc="read", unit="batch")
        for _ in range(4):
            clock.now += 1
            bar.update()
        assert bar.seconds_left == 0 and bars._RUNNING.seconds_left > 0
        bar.close()


def test_disabled_bar_can_be_printed():
    """As one of tqdm can, by a debugger say."""
    assert "3" in str(ProgressBar(range(3), disable=True))


def test_first_step_is_no_measure_of_the_rest(clock):
    """It compiles and warms up: a minute for it would make hours of a run of minutes."""
    bar = ProgressBar(total=11, file=io.StringIO(), unit="step")
    clock.now += 60
    bar.update()
    clock.now += 2
    bar.update()
    assert bar.seconds_left == pytest.approx(2 * 9)
    bar.close()


def test_resumed_work_is_timed_from_where_it_goes_on(clock):
    """Steps of another day in no time would say that nothing is left to wait for."""
    bar = ProgressBar(total=100, initial=90, file=io.StringIO(), unit="step")
    for _ in range(2):
        clock.now += 3
        bar.update()
    assert bar.seconds_left == pytest.approx(3 * 8)
    bar.close()


def test_whole_is_told_by_the_shares_and_the_speed_so_far(clock):
    """Half of the steps of a part of ten seconds are not half of an hour."""
    file = io.StringIO()
    with parts_of_a_whole([("read", 10.0), ("train", 50.0), ("read", 20.0)], file):
        work(clock, 10, 2.0, None, desc="read")  # twice as slow as what was timed
        assert bars._RUNNING.seconds_left == pytest.approx(2 * 70)
        bar = ProgressBar(total=10, desc="train", unit="step")
        clock.now += 10
        bar.update(1)
        assert bars._RUNNING.seconds_left == pytest.approx(2 * (45 + 20))
        bar.close()
        work(clock, 10, 2.0, None, desc="something else")
        assert bars._RUNNING.seconds_left == pytest.approx(2 * (45 + 20))
        work(clock, 10, 1.0, None, desc="read")
        assert not bars._RUNNING.seconds_left
    assert "read: 10/10 batches in 20 s (in all about 2 min left)\n" in file.getvalue()
    assert bars._RUNNING is None


def test_parts_that_were_done_before_are_passed_over(clock):
    """A demo that is gone on with would promise the time of what it has kept."""
    with parts_of_a_whole([("read", 30.0), ("train", 100.0), ("ask", 10.0)], io.StringIO()):
        bar = ProgressBar(total=100, initial=50, desc="train", unit="step")
        assert bars._RUNNING.seconds_left is None
        clock.now += 20
        bar.update(10)  # ten of a hundred seconds' work
        assert bars._RUNNING.seconds_left == pytest.approx(2 * (40 + 10))
        bar.close()
