"""Atomic files, the journal and the lock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from select_to_think.files import (
    Journal,
    lock,
    make_room,
    only_writer,
    parse_record,
    require_same_settings,
    write_json_atomic,
    write_text_atomic,
)
from select_to_think.structures import Counts, S2TError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A real limit on the size of files, as a full disk would do."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from select_to_think.files import write_text_atomic; from select_to_think.structures import S2TError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_text_atomic(Path(sys.argv[1]), 'x' * 5000)\n"
        "except S2TError as error: print(error); sys.exit(2)\n"
    )
    path = tmp_path / "results.json"
    path.write_text("old")
    source = str(Path(__file__).parents[1] / "src")
    child = subprocess.run(
        [sys.executable, "-c", script, path], env={"PYTHONPATH": source, "PATH": ""}, capture_output=True, text=True
    )
    assert child.returncode == 2 and "cannot write" in child.stdout, child.stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (
        lambda: write_json_atomic(tmp_path / "file" / "x.json", {}),
        lambda: write_text_atomic(tmp_path / "missing" / "x", ""),
        lambda: Journal(tmp_path / "missing" / "x", dict),
        lambda: only_writer(tmp_path / "file" / "folder").__enter__(),
    ):
        with pytest.raises(S2TError, match=r"cannot write .*; choose another place"):
            attempt()


def test_a_folder_that_may_not_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # root may everything
    with pytest.raises(S2TError, match=r"is not writable; choose another place"):
        make_room(tmp_path / "answers.jsonl")


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json_atomic(tmp_path / "x.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_half_written_last_line_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = b'{"n":1}\n{"n":2}\n{"n":"\xc3\xa4"}\n'
    path.write_bytes(whole[:-cut])
    with Journal(path, dict) as journal:
        kept = whole[:-cut].count(b"\n")
        assert len(journal.records) == kept
        journal.append({"n": 9})
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*({"n": 1}, {"n": 2})[:kept], {"n": 9}]


def test_a_broken_line_inside_a_journal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"n":1}\n{"n":\n{"n":3}\n')
    with pytest.raises(S2TError, match="line 2"):
        Journal(path, dict)


def test_a_full_disk_while_appending(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", dict) as journal:
        journal.append({"n": 1})
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, journal._file)
        os.close(full)
        with pytest.raises(S2TError, match="run the same command again"):
            journal.append({"n": 2})
    with Journal(tmp_path / "journal", dict) as journal:
        assert journal.records == [{"n": 1}]


def test_a_record_that_the_disk_takes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:3]))
    with Journal(tmp_path / "journal", dict) as journal:
        journal.append({"n": 12345})
    with Journal(tmp_path / "journal", dict) as journal:
        assert journal.records == [{"n": 12345}]


def test_counts_of_earlier_versions_are_read() -> None:
    written = json.dumps({**asdict(Counts(llm_failures=3)), "llm_failures": None})
    earlier = written.replace('"llm_failures": null', '"mentor_failures": 3').encode()
    assert parse_record(Counts, earlier, "results.jsonl", remedy="none").llm_failures == 3


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(S2TError, match="another process"):
            lock(handle, tmp_path)
        with pytest.raises(OSError):  # it is closed
            os.fstat(handle)
        with pytest.raises(S2TError, match="another process"), only_writer(tmp_path):
            pass
    with only_writer(tmp_path):
        pass


def test_a_journal_outside_a_locked_folder_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    with Journal(path, dict, alone=True) as journal:
        journal.append({"n": 1})
        with pytest.raises(S2TError, match=r"writing to .*labels\.jsonl"):
            Journal(path, dict, alone=True)
        journal.append({"n": 2})
    with Journal(path, dict, alone=True) as journal:
        assert journal.records == [{"n": 1}, {"n": 2}]


def test_left_over_temporary_files_go(tmp_path: Path) -> None:
    (tmp_path / ".results.json.123.tmp").write_text("half")
    with only_writer(tmp_path):
        assert os.listdir(tmp_path) == []


def test_other_settings_are_named(tmp_path: Path) -> None:
    require_same_settings(tmp_path, {"a": {"b": 1}, "c": [1]}, {"a": {"b": 1}, "c": (1,)})
    with pytest.raises(S2TError, match=r"a\.b was 1, is 2"):
        require_same_settings(tmp_path, {"a": {"b": 1}}, {"a": {"b": 2}})


def test_text_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(tmp_path / "a.txt", "half a pair \ud800")
    assert not list(tmp_path.iterdir())
