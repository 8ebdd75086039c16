"""What a long command says on a terminal, and that it says nothing anywhere else."""

import io
import sys

from o1_records.progress import shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_is_said_where_stderr_is_no_terminal(capsys):
    assert list(shown(range(3), "parts", total=3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_is_told_how_many_of_how_many_and_the_line_is_removed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(shown("abc", "parts", total=3)) == ["a", "b", "c"]
    assert terminal.getvalue() == "\rparts: 1 of 3 \r\x1b[K"
