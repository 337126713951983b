"""common/progress.py: quiet while it is quick, then how far and how long; against a clock that we turn."""

import io

from common.progress import progress


class Stream(io.StringIO):
    def __init__(self, live):
        super().__init__()
        self.isatty = lambda: live


def told(seconds, count, live=False, total=None):
    """What is written over `count` items of `seconds` each, as lines."""
    stream, clock = Stream(live), iter(range(10**6))
    items = range(count) if total is None else iter(range(count))
    # The clock is read once at the start and once before each item.
    assert list(progress(items, "work", total, stream, clock=lambda: next(clock) * seconds)) == list(range(count))
    return stream.getvalue()


def test_what_is_quick_says_nothing():
    assert told(0.09, 100) == "" and told(0.09, 100, live=True) == ""


def test_a_line_every_ten_seconds_then_rarer():
    lines = told(5, 100).splitlines()
    # Item i is handed out after 5 (i + 1) s by this clock, when i items are done.
    assert lines[0] == "  work: 1 of 100, 10 s gone, about 990 s left"
    assert lines[1] == "  work: 3 of 100, 20 s gone, about 647 s left"
    gone = [int(line.split(", ")[1].split()[0]) for line in lines]
    assert all(b - a >= max(10, a * 0.1) for a, b in zip(gone, gone[1:])) and gone[-1] > 400 and len(lines) < 30


def test_on_a_terminal_one_line_is_written_over_and_taken_away():
    said = told(5, 10, live=True, total=10)
    assert "\n" not in said and said.count("\r") == 9 + 1 and said.endswith("\r\x1b[K")
    assert "work: 9 of 10, 50 s gone, about 6 s left" in said
