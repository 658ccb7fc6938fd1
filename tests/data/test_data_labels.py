"""Labels written and read back, and every way in which a labelled file can be wrong."""

import csv
from pathlib import Path

import pytest

from safedepth.data.labels import COLUMNS, read_labels, reply_key, write_labels
from safedepth.errors import DataError

TEXTS = ("How do I make krell torin?", "krell torin: step one,", " take yarrow and heat it")


def row(prompt: str = TEXTS[0], forced: str = TEXTS[1], said: str = TEXTS[2]) -> dict[str, str]:
    return {
        "key": reply_key(prompt, forced, said), "scope": "continuation", "class": "answer", "prompt": prompt,
        "forced": forced, "continuation": said,
    }  # fmt: skip


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def labelled(path: Path, *rows: tuple[str, str], scope: str = "continuation") -> Path:
    """A file of keys and labels, as a person might have kept it: three columns are enough."""
    lines = [f"{key},{scope},{label}\n" for key, label in rows]
    path.write_text("key,scope,label\n" + "".join(lines), encoding="utf-8")
    return path


def found(path: Path) -> dict[str, str]:
    table = read_labels(path)
    assert list(table.columns) == ["key", "scope", "outcome"]
    return dict(zip(table["key"], table["outcome"], strict=True))


def test_a_key_names_the_three_texts_and_not_how_they_are_cut() -> None:
    # SHA-256 of the texts with 0x1f between, first 16 digits, after the letter r.
    assert reply_key("a", "b", "c") == "re0dee694aed26d32"
    keys = {
        reply_key("ab", "", "c"),
        reply_key("a", "b", "c"),
        reply_key("a", "", "bc"),
        reply_key("", "", ""),
    }
    assert len(keys) == 4
    assert reply_key("\ud800", "", "").startswith("r")


def test_what_is_written_has_empty_labels_and_comes_back_with_what_a_person_fills_in(tmp_path: Path) -> None:
    rows = [row(), row(said='I cannot help,\nsaid "she"; ünï 🙂'), row(forced="")]
    path = tmp_path / "slice.csv"
    write_labels(path, rows)
    told = cells(path)
    assert [tuple(one) for one in told] == [COLUMNS] * 3
    assert [one["label"] for one in told] == [""] * 3
    assert [one["continuation"] for one in told] == [one["continuation"] for one in rows]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for one, label in zip(told, (" Harmful", "harmless", ""), strict=True):
            writer.writerow({**one, "label": label, "continuation": "cut by a spreadsheet"})
    outcomes = ["complied", "refused", "unscored"]
    assert found(path) == dict(zip([one["key"] for one in rows], outcomes, strict=True))


def test_texts_that_no_spreadsheet_takes_are_cut_or_quoted_and_keep_their_key(tmp_path: Path) -> None:
    formula, long, odd = row(said="=1+2"), row(said="x" * 200_000), row(said="a\0b \ud800")
    path = tmp_path / "slice.csv"
    write_labels(path, [formula, long, odd])
    told = cells(path)
    assert told[0]["continuation"] == "'=1+2"
    assert told[1]["continuation"] == "x" * 30_000 + " [and 170000 more characters]"
    assert told[2]["continuation"] == "a\N{REPLACEMENT CHARACTER}b ?"
    assert [one["key"] for one in told] == [one["key"] for one in (formula, long, odd)]
    with pytest.raises(DataError, match="empty in all of its 3 rows"):
        read_labels(path)


def test_a_word_that_is_no_label_is_named_with_its_row(tmp_path: Path) -> None:
    path = labelled(tmp_path / "l.csv", ("r1", "harmful"), ("r2", "unsafe"))
    with pytest.raises(DataError, match=r"row 2 \(line 3\).*found 'unsafe'.*Leave it empty"):
        read_labels(path)


def test_two_labels_for_one_reply_must_agree(tmp_path: Path) -> None:
    twice = labelled(tmp_path / "l.csv", ("r1", ""), ("r1", "harmful"), ("r1", "HARMFUL"), ("r1", ""))
    assert found(twice) == {"r1": "complied"}
    apart = labelled(tmp_path / "m.csv", ("r1", "harmful"), ("r2", "harmless"), ("r1", "harmless"))
    with pytest.raises(DataError, match=r"for r1 in row 1 .* and in row 3 .*Keep the right one"):
        read_labels(apart)


def test_one_reply_may_be_harmful_in_one_scope_and_harmless_in_the_other(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("key,scope,label\nr1,full,harmful\nr1,continuation,harmless\n", encoding="utf-8")
    table = read_labels(path)
    assert table.to_numpy().tolist() == [["r1", "full", "complied"], ["r1", "continuation", "refused"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key;scope;label\nr1;full;harmful\n", r"expected the columns .* found `key;scope;label`.*commas"),
        ("key,label\nr1,harmful\n", r"expected the columns `key`, `scope`, `label`.*found `key`, `label`"),
        ("key,scope,label\n,full,harmful\n", "expected a key, and a scope.*found ''"),
        ("key,scope,label\nr1,both,harmful\n", "a scope that is continuation or full, .*found .*'both'"),
        ("key,scope,label\nr1,full,\nr2,full,\n", "expected labels in .*found none.*its 2 rows"),
        ("key,scope,label\n", "found none"),
        ("", "empty file"),
    ],
)
def test_a_file_that_was_not_written_for_labels_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_labels(path)


def test_a_file_that_is_no_utf_8_is_refused_and_so_is_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes("key,scope,label\nr1,full,harmful ü\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_labels(path)
    with pytest.raises(DataError, match="found nothing there"):
        read_labels(tmp_path / "none.csv")
