"""What processes print: lines with a name, whatever they do, and no more of it than can be read."""

from __future__ import annotations

import json
import os
import selectors

from lifl.placement.output import BURST_LINES, LINES_PER_S, LONGEST_LINE, Outputs, Speaker


def hear(*pieces: bytes, over_s: float = 0.0) -> tuple[list[str], Speaker]:
    said: list[str] = []
    speaker = Speaker("x", lambda who, text: said.append(f"{who}: {text}"))
    for index, piece in enumerate(pieces):
        speaker.hear(piece, 100 + over_s * index)
    speaker.ended(100 + over_s * len(pieces))
    return said, speaker


def test_lines_arrive_whole_however_they_are_cut() -> None:
    text = "eins\n\nzwei drei\n\N{SNOWMAN}vier".encode()
    for size in (1, 2, 3, 7, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        said, speaker = hear(*pieces)
        assert said == ["x: eins", "x: zwei drei", "x: \N{SNOWMAN}vier"]
        assert speaker.last == "\N{SNOWMAN}vier"


def test_of_a_progress_bar_the_last_state_is_said() -> None:
    assert hear(b"\r 10 %", b"\r 50 %\r", b"100 %\n", b"a\r\n")[0] == ["x: 100 %", "x: a"]


def test_a_line_without_end_takes_no_memory() -> None:
    said, speaker = hear(*[b"x" * 65536] * 50)
    assert said == ["x: " + "x" * LONGEST_LINE + "..."]
    assert len(speaker._begun) == 0


def test_who_prints_without_end_is_cut_short_and_the_end_is_known() -> None:
    said, speaker = hear(*[b"spam\n" * 10_000] * 3, b"the last\n", over_s=0.01)
    assert len(said) <= BURST_LINES + 2
    left_out = 30_001 - BURST_LINES
    assert said[-1] == f"x: ... {left_out} lines left out, beyond {LINES_PER_S} a second"
    assert speaker.last == "the last"
    slowly, _ = hear(*[b"a line\n"] * 1000, over_s=1 / LINES_PER_S)
    assert slowly == ["x: a line"] * 1000


def test_last_words_are_not_lines() -> None:
    word = b"\x1e" + json.dumps({"round": 2}).encode() + b"\n"
    said, speaker = hear(b"begun\n", word, b"\x1enot json\n")
    assert said[0] == "x: begun"
    assert speaker.words == {"round": 2}
    assert speaker.last == "\x1enot json"


def test_what_is_in_the_pipe_of_the_dead_is_read() -> None:
    said: list[str] = []
    speaker = Speaker("x", lambda _, text: said.append(text))
    read, write = os.pipe()
    with selectors.DefaultSelector() as selector:
        outputs = Outputs(selector)
        outputs.listen(read, speaker)
        os.write(write, b"a" * 60_000 + b"\nb\nc")
        outputs.drain(speaker)  # somebody else holds the pipe and says nothing
        assert said[1:] == ["b"]
        os.close(write)
        outputs.drain_all()
        assert said[1:] == ["b", "c"]
        assert read not in outputs
