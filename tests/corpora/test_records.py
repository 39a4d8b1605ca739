import csv
import io
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora import PIECE_CHARS, DataSettings, reading, records
from lmlab.corpora.document import Document
from lmlab.corpora.raw import Origin, file_origin, kind_of
from lmlab.corpora.records import clean, clip, first, read_documents, text_documents
from lmlab.errors import DataError, SettingError


def read(name, data, size=1 << 20, **settings):
    data = data.encode() if isinstance(data, str) else data
    origin = Origin(name, lambda: (data[i : i + size] for i in range(0, len(data), size)), len(data))
    return list(read_documents(origin, DataSettings(**settings)))


def texts(*args, **settings):
    return [document.text for document in read(*args, **settings)]


def test_kinds_by_ending():
    names = ["a.jsonl.zst", "a.ndjson", "a.JSON", "a.csv.gz", "a.tsv", "a.parquet", "a.txt", "a.gz", "a"]
    kinds = ["jsonl", "jsonl", "json", "csv", "tsv", "parquet", "text", "text", "text"]
    assert [kind_of(name) for name in names] == kinds


def test_the_first_known_field_is_the_text():
    lines = [{"id": 1, "text": "a", "code": "b"}, {"content": "c\r\nd"}, {"code_tokens": ["def", "f"]}]
    found = read("a.jsonl", "\n\n".join(map(json.dumps, lines)))
    assert [document.text for document in found] == ["a", "c\nd", "def f"]
    assert [document.tokens for document in found] == [None, None, ("def", "f")]
    assert [document.id for document in found] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:5"]


def test_a_separator_of_unicode_does_not_end_a_json_line():
    assert texts("a.jsonl", '{"text": "a\u2028b\x85c"}\n') == ["a\u2028b\x85c"]


def test_template_field_and_null():
    record = '{"title": "T", "n": 3, "summary": null}'
    assert texts("a.jsonl", record, template="{title} ; {n}{{{summary}}}") == ["T ; 3{}"]
    assert texts("a.jsonl", record, text_field="title") == ["T"]


@pytest.mark.parametrize("settings", [{}, {"text_field": "nope"}, {"template": "{nope}"}])
def test_an_unknown_field_lists_the_fields(settings):
    with pytest.raises(DataError, match=r"a.jsonl:2 has no field '(text|nope)': .* among title, n"):
        read("a.jsonl", '{"text": "", "nope": ""}\n{"title": "T", "n": 3}', **settings)


def test_a_field_of_another_kind():
    with pytest.raises(DataError, match="neither text nor a list of tokens, but 3"):
        read("a.jsonl", '{"text": 3}')


@pytest.mark.parametrize("line", ["{bad", "[" * 100_000, '{"a": 1} x'])
def test_a_bad_json_line_is_named(line):
    with pytest.raises(DataError, match=r"a\.jsonl:2 is not JSON"):
        read("a.jsonl", '{"text": "good"}\n' + line)


def test_a_json_line_that_is_no_object():
    with pytest.raises(DataError, match=r"a\.jsonl:1 is JSON, but not an object"):
        read("a.jsonl", "[1]")


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_a_json_list_is_read_element_by_element(size):
    records = [{"text": f'tricky "]}}, {i}'} for i in range(30)]
    for indent in (None, 2):
        data = " \n" + json.dumps(records, indent=indent) + "\n"
        assert texts("a.json", data, size) == [record["text"] for record in records]


def test_a_json_file_may_hold_lines():
    assert texts("a.json", '{"text": "a"}\n{"text": "b"}') == ["a", "b"]


@pytest.mark.parametrize("data", ['[{"text": "a"}', '[{"text": "a"}, {', '[{"text": "a"} {"text": "b"}]'])
def test_a_bad_json_list_is_told(data):
    with pytest.raises(DataError, match="element"):
        read("a.json", data)


def test_an_empty_json_list_has_no_documents():
    assert read("a.json", "[ ]") == []


def test_csv_with_header_quotes_and_newlines():
    data = 'id,text\r\n1,"say ""hi"", then\r\ngo"\r\n\r\n2,plain\r\n'
    assert texts("a.csv", data) == ['say "hi", then\ngo', "plain"]


def test_csv_without_header_and_tsv():
    assert texts("a.csv", "1,x\n2,y\n", columns=("id", "text")) == ["x", "y"]
    assert texts("a.tsv", "text\tid\nx, y\t1\n") == ["x, y"]


def test_a_long_csv_field_passes_and_the_callers_limit_is_untouched_all_the_while():
    before = csv.field_size_limit(1000)
    try:
        data = f"text,id\n{'x' * 300_000},1\ny,2\n".encode()
        documents = read_documents(Origin("a.csv", lambda: iter([data])), DataSettings())
        assert len(next(documents).text) == 300_000
        with pytest.raises(csv.Error, match=r"field limit \(1000\)"):  # while our reader stands at its second row
            next(csv.reader(["x" * 1001]))
        csv.field_size_limit(2000)  # what the caller changes meanwhile stays, too
        assert [document.text for document in documents] == ["y"]
        assert csv.field_size_limit() == 2000
    finally:
        csv.field_size_limit(before)


def test_an_unclosed_quote_does_not_swallow_a_whole_file(monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 1000)
    with pytest.raises(DataError, match=r"a\.csv:2 is not CSV \(field larger than field limit \(1000\)\)"):
        read("a.csv", 'text\n"' + "x\n" * 5000)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1", "has 1 columns, but 2"),
        ("1,2,3", "has 3 columns"),
        ('1,"open', "opens a quote that is never closed"),
        ('1,"open\n2,x\n3,y', "opens a quote that is never closed"),
        ('1,"closed" and more', "is not CSV"),
    ],
)
def test_a_bad_csv_row_is_named(row, problem):
    with pytest.raises(DataError, match=rf"a\.csv:3 {problem}"):
        read("a.csv", f"id,text\n1,good\n{row}\n".removesuffix("\n" if "open" in row else ""))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b\r\nc"], "code_tokens": [["x"], ["y", "z"]]}), path)
    assert [d.text for d in read_documents(file_origin(path), DataSettings())] == ["a", "b\nc"]
    tokens = [d.tokens for d in read_documents(file_origin(path), DataSettings(text_field="code_tokens"))]
    assert tokens == [("x",), ("y", "z")]
    with pytest.raises(DataError, match="not a Parquet file"):
        read("b.parquet", "no parquet here")


def test_a_parquet_field_that_python_cannot_hold_is_named_by_its_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    text = pyarrow.array(["a"] * 299 + ["b"])
    bad = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff"))
    late = pyarrow.array([0] * 299 + [2**62], pyarrow.int64()).cast(pyarrow.timestamp("us"))
    tables = {"text": {"text": pyarrow.concat_arrays([text[:299], bad])}, "when": {"text": text, "when": late}}
    for field, table in tables.items():
        parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=rf"a\.parquet:300: the field '{field}' cannot be read"):
            list(read_documents(file_origin(tmp_path / "a.parquet"), DataSettings()))
    twice = pyarrow.Table.from_arrays([text, text], names=["text", "text"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns called 'text'"):
        list(read_documents(file_origin(tmp_path / "a.parquet"), DataSettings()))


def test_a_tsv_has_no_quotes_unless_they_are_asked_for():
    rows = 'text\tlabel\n"begins with a quote\t1\nhas "some" within\t2\nends with one"\t3\n'
    assert texts("a.tsv", rows) == ['"begins with a quote', 'has "some" within', 'ends with one"']
    assert texts("a.tsv", 'text\tid\n"a\tb"\t1\n', quote='"') == ["a\tb"]
    assert texts("a.tsv", "text\tid\na\rb\t1\n") == ["a\rb"]


@given(
    st.lists(st.lists(st.text("ab;|'\\\\\"\n\t ", max_size=6), min_size=2, max_size=2), min_size=1, max_size=4),
    st.sampled_from([",", ";", "\t", "|", " "]),
    st.sampled_from(['"', "'"]),
)
def test_any_dialect_that_is_named(rows, delimiter, quote):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quotechar=quote, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    found = texts("a.csv", out.getvalue(), delimiter=delimiter, quote=quote, columns=("text", "more"))
    assert found == [row[0] for row in rows]


def test_an_escape_and_a_delimiter_by_name():
    assert texts("a.csv", 'text\tid\n"a\\"b\tc"\t1\n', delimiter="tab", escape="\\") == ['a"b\tc']
    assert texts("a.csv", "text,id\na\\,b,1\n", quote="none", escape="\\") == ["a,b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("delimiter", ",,"), ("delimiter", "\n"), ("quote", ""), ("quote", ","), ("escape", '"'), ("quote", "\t")],
)
def test_a_dialect_that_cannot_be(name, value):
    with pytest.raises(SettingError):
        DataSettings(**{name: value})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_no_column_is_lost_behind_another_of_its_name(name):
    with pytest.raises(DataError, match=f"{name} has two columns called 'text'"):
        read(name, "text,id,text\na,1,b\n", delimiter=",")
    with pytest.raises(SettingError, match="columns is 'text,text', but must be names that differ"):
        DataSettings(columns=("text", "text"))
    with pytest.raises(DataError, match=r"a.jsonl:1 is not JSON \(the field 'text' stands twice\)"):
        read("a.jsonl", '{"text": "a", "text": "b"}')
    with pytest.raises(DataError, match=r"a.json, element 2 is not JSON \(the field 'text' stands twice\)"):
        read("a.json", '[{"text": "a"}, {"text": "a", "text": "b"}]')


def test_a_record_that_never_ends_is_not_held_whole(monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 5000)
    monkeypatch.setattr(reading, "LONGEST", 5000)
    monkeypatch.setattr(records, "CHUNK", 1000)
    for name, head in {"a.jsonl": '{"text": "', "a.json": '[{"text": "', "a.csv": 'text\n"', "a.tsv": "text\n"}.items():
        origin = Origin(name, lambda head=head: itertools.chain([head.encode()], itertools.repeat(b"x" * 500)))
        with pytest.raises(DataError, match=r"5,000|larger than field limit"):
            list(read_documents(origin, DataSettings()))


def test_unit_overrules_the_container():
    data = '{"text": "a"}\n{"text": "b"}\n'
    assert texts("a.jsonl", data, unit="line") == data.splitlines()
    assert "".join(texts("a.jsonl", data, unit="document")) == data
    assert texts("a.txt", data, unit="record") == ["a", "b"]


def test_lines_without_text_are_skipped():
    found = read("a.txt", "one\n\n \t\ntwo\u2028three", unit="line")
    assert [(document.text, document.id) for document in found] == [("one", "a.txt:1"), ("two\u2028three", "a.txt:4")]


def test_a_line_larger_than_memory_comes_in_pieces():
    chunks = ["a" * PIECE_CHARS, "b" * 10, "\nnext"]
    found = list(text_documents(chunks, "a", "line"))
    assert "".join(document.text for document in found[:-1]) == "a" * PIECE_CHARS + "b" * 10
    assert [document.last for document in found] == [False, True, True]
    assert found[-1].text == "next"


def test_clean_treats_text_in_records_like_text_in_files():
    assert clean("a\r\nb\rc", "x", "strict") == "a\nb\rc"
    for bad in ("a\0", "é\ud800"):
        with pytest.raises(DataError, match=r"U\+(0000|D800).* at character 1"):
            clean(bad, "x:1", "strict")
        assert clean(bad, "x:1", "replace").endswith("\ufffd")


def test_clip_cuts_each_document_not_each_piece():
    pieces = [
        Document("abc", last=False),
        Document("def", last=False),
        Document("gh"),
        Document("ijklm"),
        Document("n"),
    ]
    found = list(clip(pieces, 4))
    assert [(document.text, document.last) for document in found] == [
        ("abc", False),
        ("d", True),
        ("ijkl", True),
        ("n", True),
    ]


def test_clip_keeps_whole_tokens():
    found = list(clip([Document("ab cd ef", tokens=("ab", "cd", "ef"))], 6))
    assert (found[0].text, found[0].tokens) == ("ab cd", ("ab", "cd"))


def test_first_counts_documents_and_reads_no_further():
    def endless():
        while True:
            yield Document("a", last=False)
            yield Document("b")

    assert [document.last for document in first(endless(), 2)] == [False, True, False, True]
