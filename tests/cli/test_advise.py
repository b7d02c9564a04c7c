"""`treering advise`: with flags, and as a dialogue on a terminal."""

import io
import json

import pytest

from treering.cli import main


class Terminal(io.StringIO):
    def isatty(self):
        return True


def ask(capsys, monkeypatch, *lines):
    monkeypatch.setattr("sys.stdin", Terminal("".join(line + "\n" for line in lines)))
    assert main(["advise"]) == 0
    return capsys.readouterr().out


def test_flags(capsys):
    assert main(["advise", "--kind", "jobs", "--writes-per-second", "50_000"]) == 0
    out = capsys.readouterr().out
    assert "use      treering.stores.jobs.JobQueue\n" in out
    assert "fsync_policy always" in out
    assert "docs/stores/job-queue.md" in out
    assert "share fsyncs" in out


def test_something_else(capsys):
    assert main(["advise", "--queries", "graph"]) == 0
    out = capsys.readouterr().out
    assert "a graph database" in out
    assert "fsync" not in out


def test_json_and_the_cost_on_this_disk(capsys, tmp_path):
    assert main(["advise", "--kind", "log", "--path", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["is_treering"]
    assert content["use"] == "treering.Wal"
    assert "raw write + fsync" in content["cost"]


def test_the_dialogue_takes_beginnings_of_words_and_explains(capsys, monkeypatch):
    out = ask(
        capsys, monkeypatch, "?", "s", "sess", "pow", "", "", "", "one", "many", "200", "5000"
    )
    assert "who is logged in" in out
    assert "not 'many'" in out
    assert "SessionStore" in out


def test_the_end_of_input_means_the_usual_answers(capsys, monkeypatch):
    assert "treering.Wal" in ask(capsys, monkeypatch)


def test_without_a_terminal_and_without_flags_it_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["advise"]) == 2
    assert "For example: treering advise --kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["--kind", "x"], ["--record-bytes", "0"], ["--path", "/no/such/place", "--kind", "log"]],
)
def test_wrong_flags_are_refused(capsys, flags):
    assert main(["advise", *flags]) == 2
    assert capsys.readouterr().err.startswith("treering: ")
