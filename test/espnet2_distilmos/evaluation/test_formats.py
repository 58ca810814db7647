# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import math

import pytest

from espnet2_distilmos.data.datadir import DataError, read_metric_scp
from espnet2_distilmos.evaluation.formats import (
    FORMATS,
    encode_name,
    read_scores,
    write_scores,
)
from espnet2_distilmos.evaluation.join import Score, Vote, decode_name

NAMES = [
    *("plain", "dir/a b.wav", "comma, \"quote\" and 'tick'", '"quoted"', "{brace"),
    *("two\nlines\r\nand\ttab", "carriage\rreturn", " blanks around ", "id"),
    *("no\u00a0break\u3000space\u2028line", "日本語-ü.wav", "percent%20and%"),
    *("%:escaped already", "%:a%20b", "not utf-8 \udce9", "nul\x00"),
]

# What each format can hold, from the owners' documentation and not from FORMATS
HOLDS = {
    "metric-scp": "number text unlabelled",
    "distilmos-csv": "system path error number text json inf unlabelled",
    "distilmos-jsonl": "system path votes error number text json unlabelled",
    "sheet": "system path votes number text json inf",
    "sheet-results": "system path number text json inf",
    "voicemos": "",
    "versa": "number text json unlabelled",
    "csv": "system path number text json inf unlabelled",
    "tsv": "system path number text json inf unlabelled",
}


def kind(value):
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, list)):
        return "json"
    return "number" if math.isfinite(value) else "inf"


def project(records, format):
    """The records as far as the format can hold them."""
    holds = HOLDS[format].split()
    found = []
    for record in records:
        if record.score is not None or "unlabelled" in holds:
            extra = {k: v for k, v in record.extra.items() if kind(v) in holds}
            fields = ("system", "path", "votes", "error")
            values = {n: getattr(record, n) for n in fields if n in holds}
            found.append(Score(record.id, record.score, **values, extra=extra))
    return found


def make_records():
    records = [
        Score(name, 1 + k / 3, system=f"system {k % 3}", path=f"/audio/{name}")
        for k, name in enumerate(NAMES)
    ]
    records[0].votes = [Vote(2.0, "l, 1", 0), Vote(3.5, "ü", 7)]
    records[0].score = 2.75
    records[1].votes = [Vote(5.0), Vote(4.0), Vote(4.0)]
    records[1].score = 13 / 3
    records[2].score, records[2].error = None, 'the file is "empty",\nsee it.'
    records[3].score = None
    records[4].extra = {"lower": 1.5, "upper": 2.25, "novel": False, "seconds": 3.0}
    records[5].extra = {"avg_score": 3.25, "text": "a\rb,\nc", "list": [1, {"a": "ü"}]}
    texts = ("12", "true", "1.50", '"q"', ' "x" ', "null", "[1]", "007", "NaN")
    records[6].extra = {f"text{k}": text for k, text in enumerate(texts)}
    records[7].extra = {"sir": math.inf, "other": -math.inf, "int": 3, "big": 1e300}
    records[8].system = records[8].path = None
    records[9].score, records[10].score = -0.0, 1e-17
    return records


def written_and_read(path, records, format):
    write_scores(path, records, format)
    file = read_scores(path)  # detected from the content alone
    assert (file.format, file.metric) == (format, "mos")
    assert file.problems == file.notes == []
    return file.records


@pytest.mark.parametrize("format", list(HOLDS))
def test_nothing_is_lost_that_the_format_can_hold(tmp_path, format):
    records = make_records()
    found = written_and_read(tmp_path / "1", records, format)
    assert found == project(records, format)
    assert records == make_records() and set(HOLDS) == set(FORMATS)
    between = project(records, format)  # and on to another format
    again = written_and_read(tmp_path / "2", between, "distilmos-jsonl")
    assert again == project(between, "distilmos-jsonl")


@pytest.mark.parametrize("format", list(HOLDS))
def test_what_is_lost_is_said(tmp_path, format):
    records = make_records()
    notes = " ".join(write_scores(tmp_path / "f", records, format))
    for field in ("system", "path", "votes"):
        assert (f"the {field} (" in notes) == (field not in HOLDS[format])
    assert ("a missing score (2)" in notes) == ("unlabelled" not in HOLDS[format])
    assert ("wav_path, which SHEET wants" in notes) == format.startswith("sheet")


def test_names_are_escaped_where_they_must_be():
    for format in FORMATS:
        for name in NAMES:
            written = encode_name(name, format)
            assert decode_name(written) == name
            written.encode("utf-8")
            if format == "metric-scp":
                assert written.split() == [written] and "\0" not in written
            if format == "voicemos":
                assert written.strip() == written and not set(written) & set(",\n\r\0")
    assert encode_name("a%20b", "metric-scp") == "a%20b" == decode_name("a%20b")
    assert encode_name("ü b", "metric-scp") == "%:ü%20b"


# Files as their owners write them


def write(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def plain(file):
    return [(record.id, record.score) for record in file.records]


def test_metric_scp_of_aqa(tmp_path):
    text = (
        'b {"utmos": 3.5, "mos": 2, "real_language": "eng"}\n\na {}\nc {"utmos": 1}\n'
    )
    path = write(tmp_path, "metric.scp", text)
    file = read_scores(path)
    assert (file.format, file.metric) == ("metric-scp", "mos")
    assert plain(file) == list(read_metric_scp(path).items())
    assert file.records[0].extra == {"utmos": 3.5, "real_language": "eng"}
    file = read_scores(path, metric="utmos")
    assert plain(file) == [("b", 3.5), ("a", None), ("c", 1.0)]
    write_scores(tmp_path / "out", file.records, "metric-scp", file.metric)
    assert read_metric_scp(tmp_path / "out", "utmos") == dict(plain(file))
    assert read_scores(write(tmp_path, "x", 'a {"x": 1}\nb {}\n')).metric == "x"
    for metric in (None, "dnsmos"):  # which of the two, and there is none
        with pytest.raises(DataError, match="has the metrics or columns x, y"):
            read_scores(write(tmp_path, "two", 'a {"x": 1, "y": 2}\n'), metric=metric)


def test_data_directory(tmp_path):
    (tmp_path / "metric.scp").write_text('a {"mos": 3}\n%:b%20b {"mos": 4.5}\n')
    (tmp_path / "utt2sys").write_text("%:b%20b system 2\nother x\n")
    (tmp_path / "votes.scp").write_text('a [["l1", 2], ["l2", 4]]\n%:b%20b [4]\n')
    file = read_scores(tmp_path)
    assert file.path == str(tmp_path / "metric.scp")
    assert file.records == [
        Score("a", 3.0, votes=[Vote(2.0, "l1"), Vote(4.0, "l2")]),
        Score("b b", 4.5, system="system 2"),
    ]
    (problem,) = file.problems
    assert "votes.scp: utterance b b has the vote 4" in problem


SHEET_DATA = (
    "wav_path,system_id,sample_id,phoneme,cluster,domain_idx,score,listener_id\n"
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,2,4.0,{}_30-39_x_Female_Valid_1_No\n'
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,2,5.0,L2\n'
    "/w/sys2-utt2.wav,sys2,utt2,b,c,2,1.0,L2\n"
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,2,5.0,L3\n'
)


def test_sheet_data_is_a_row_a_vote(tmp_path):
    path = write(tmp_path, "bvcc_train.csv", SHEET_DATA)
    file = read_scores(path)
    first, second = file.records
    assert (first.id, first.system, first.path) == ("utt1", "sys1", "/w/sys1-utt1.wav")
    assert first.score == 14 / 3 and second.score == 1.0 and file.problems == []
    listener = "{}_30-39_x_Female_Valid_1_No"
    assert first.votes == [Vote(4.0, listener), Vote(5.0, "L2"), Vote(5.0, "L3")]
    # cluster is a name, not a number
    assert first.extra == {"phoneme": "h,@", "cluster": "1e5", "domain_idx": 2}
    write_scores(tmp_path / "out.csv", file.records, "sheet")
    tables = []
    for name in (path, tmp_path / "out.csv"):
        with open(name, newline="") as f:
            tables.append(sorted(sorted(row.items()) for row in csv.DictReader(f)))
    assert tables[0] == tables[1]


def test_sheet_without_listeners_holds_means(tmp_path):
    header = "wav_path,score,system_id,sample_id\n"
    path = write(tmp_path, "a", header + "/w/a.wav,3.25,s,a\n/w/b.wav,2,s,b\n")
    assert read_scores(path).records[0] == Score("a", 3.25, "s", "/w/a.wav")
    path = write(tmp_path, "b", header + "/w/a.wav,3,s,a\n/w/b.wav,4,t,a\n")
    file = read_scores(path)
    assert file.records == [Score("a", 3.5, "s", "/w/a.wav", [Vote(3.0), Vote(4.0)])]
    (problem,) = file.problems
    assert "b:3: utterance a differs from line 2" in problem
    # benchmark sets have avg_score alone
    text = "wav_path,system_id,sample_id,avg_score\n/w/a.wav,s,a,2.5\n"
    file = read_scores(write(tmp_path, "c", text))
    assert (file.format, file.metric, plain(file)) == ("sheet", "mos", [("a", 2.5)])


def test_sheet_results(tmp_path):
    text = (
        "wav_path,system_id,sample_id,avg_score,answer,logvar\r\n"
        "/w/sys1-utt1.wav,sys1,utt1,2.25,2.137074,-0.50\r\n"
        "/w/sys1-utt2.wav,sys1,utt2,1.25,1.4225314,0.125\r\n"
    )
    path = write(tmp_path, "results.csv", text)
    answer, label = read_scores(path), read_scores(path, metric="avg_score")
    assert (answer.format, answer.metric) == ("sheet-results", "mos")
    assert plain(answer) == [("utt1", 2.137074), ("utt2", 1.4225314)]
    assert answer.records[0].extra == {"avg_score": 2.25, "logvar": -0.5}
    assert label.metric == "avg_score"
    assert plain(label) == [("utt1", 2.25), ("utt2", 1.25)]
    for source in (answer, label):  # back to the owner's columns
        write_scores(tmp_path / "out", source.records, "sheet-results", source.metric)
        expected = text.replace("\r", "").replace("-0.50", "-0.5")
        assert (tmp_path / "out").read_text() == expected


def test_answer_txt(tmp_path):
    path = write(tmp_path, "answer.txt", "sys0a-utt1b,2.43\nsys9d-uttf9.wav,4\n")
    file = read_scores(path)
    assert file.format == "voicemos"
    assert plain(file) == [("sys0a-utt1b", 2.43), ("sys9d-uttf9.wav", 4.0)]
    assert [record.system for record in file.records] == ["sys0a", "sys9d"]
    write_scores(tmp_path / "out", file.records, "voicemos")
    assert (tmp_path / "out").read_text() == "sys0a-utt1b,2.43\nsys9d-uttf9.wav,4.0\n"
    # elsewhere a dash means something else
    path = write(tmp_path, "b", "VoiceMOS2023Track1-A-AD_test_0026,4.42105263157895\n")
    assert read_scores(path).records[0].system is None
    # heading, byte order mark, CR LF and holes
    text = "\ufeffwavname,mos\r\n a b.wav , 3.5\r\n\r\nc,\r\nd.wav,1e0\r\n"
    file = read_scores(write(tmp_path, "c", text), format="voicemos", metric="utmos")
    assert plain(file) == [("a b.wav", 3.5), ("c", None), ("d.wav", 1.0)]
    assert (file.metric, file.problems, len(file.notes)) == ("utmos", [], 1)


def test_versa(tmp_path):
    text = (
        '{"key": "1.wav", "utmos": 3.5, "sir": Infinity, "asr": "eng", "no": null}\n'
        '{"key": "a b", "utmos": null}\n'
    )
    file = read_scores(write(tmp_path, "result", text), metric="utmos")
    assert file.format == "versa" and file.problems == []
    assert plain(file) == [("1.wav", 3.5), ("a b", None)]
    assert file.records[0].extra == {"sir": math.inf, "asr": "eng"}
    write_scores(tmp_path / "out", file.records, "versa", "utmos")
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [{"key": "1.wav", "utmos": 3.5, "asr": "eng"}, {"key": "a b"}]
    # Python literals, and nothing is evaluated
    text = "{'key': 'd/1.wav', 'utmos': 1.5, 'sir': inf, 'x': -inf, 'l': [nan, None]}\n"
    text += "{'key': 'b', 'utmos': __import__('os').getpid()}\n"
    file = read_scores(write(tmp_path, "utt_result.txt", text), metric="utmos")
    assert file.format == "versa" and plain(file) == [("d/1.wav", 1.5)]
    extra = file.records[0].extra
    assert (extra["sir"], extra["x"]) == (math.inf, -math.inf)
    assert math.isnan(extra["l"][0])
    assert len(file.problems) == 1 and "utt_result.txt:2: the line" in file.problems[0]


def test_distilmos_prediction(tmp_path):
    text = (
        "id,path,score,error,lower,upper,novelty,novel,seconds,system\n"
        'a b,/w/a b.wav,3.1250,,2.50,3.75,0.1,false,1.50,"s,1"\n'
        "c,/w/c.wav,,/w/c.wav is empty.,,,,,,\n"
    )
    file = read_scores(write(tmp_path, "scores.csv", text))
    values = {"lower": 2.5, "upper": 3.75, "novelty": 0.1}
    values.update(novel=False, seconds=1.5)
    assert file.format == "distilmos-csv"
    assert file.records == [
        Score("a b", 3.125, "s,1", "/w/a b.wav", extra=values),
        Score("c", None, path="/w/c.wav", error="/w/c.wav is empty."),
    ]
    write_scores(tmp_path / "out.csv", file.records[::-1], "distilmos-csv")
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == text.splitlines()[0]
    write_scores(tmp_path / "out.jsonl", file.records, "distilmos-jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    row = {"id": "c", "path": "/w/c.wav", "error": "/w/c.wav is empty."}
    assert line == {**row, "score": None, "system": None}
    lower = read_scores(tmp_path / "scores.csv", metric="lower")
    assert (lower.metric, plain(lower)) == ("lower", [("a b", 2.5), ("c", None)])
    assert lower.records[0].extra["score"] == 3.125
    assert read_scores(tmp_path / "out.jsonl", metric="mos").records == file.records
    (note,) = write_scores(tmp_path / "x", lower.records, "distilmos-csv", "lower")
    assert "the score's name lower" in note


def test_columns_by_name_and_number(tmp_path):
    text = "\ufeffFilename,Condition,MOS\nC_01.wav,1,4.58\nC_02.wav,2,1\n"
    path = write(tmp_path, "answer.csv", text)
    columns = {"id": "Filename", "score": "MOS", "system": "Condition"}
    file = read_scores(path, columns=columns)
    assert file.records == [Score("C_01.wav", 4.58, "1"), Score("C_02.wav", 1.0, "2")]
    numbers = read_scores(path, "csv", columns={"id": 1, "score": 3, "system": "2"})
    assert numbers.records == file.records and numbers.notes == []
    metric = read_scores(path, metric="MOS", columns={"id": "Filename"})
    assert metric.metric == "MOS" and plain(metric) == plain(file)
    other_case = read_scores(path, columns={"id": "filename", "score": "mos"})
    assert plain(other_case) == plain(file) == plain(read_scores(path))
    for wrong in ({"id": "Filename", "score": "mean"}, {"id": 1, "score": 4}):
        with pytest.raises(DataError, match="has the columns Filename, Condition, MOS"):
            read_scores(path, "csv", columns=wrong)
    # BVCC's votes, without a heading, and a cell that looks like a column's number
    text = (
        "s64,s64-u9.wav,3,junk,{}_30\ns65,s65-u1.wav,3,j,L2\ns64,s64-u9.wav,1,junk,L2\n"
    )
    path = write(tmp_path, "TRAINSET", text)
    columns = {"system": 1, "id": 2, "score": 3, "listener": 5}
    file = read_scores(path, columns=columns)
    assert [record.system for record in file.records] == ["s64", "s65"]
    assert file.records[0].votes == [Vote(3.0, "{}_30"), Vote(1.0, "L2")]
    assert file.records[0].extra == {"4": "junk"} and file.problems == []
    with pytest.raises(DataError, match="as voicemos with named columns"):
        read_scores(path, "voicemos", columns=columns)


@pytest.mark.parametrize(
    "format, text, expected",
    [
        ("csv", '"a, b",3.5\n"c\nd",2\n', [("a, b", 3.5), ("c\nd", 2.0)]),
        ("tsv", "a b\t3.5\nc\t2\n", [("a b", 3.5), ("c", 2.0)]),
        ("tsv", "name\tmos\r\na b\t3.5\r\n", [("a b", 3.5)]),
        ("csv", "\ufeffutteranceId,mean\r\n1.wav,3.5\r\n", [("1.wav", 3.5)]),
        ("csv", "score,x,id\n3,9,007\n", [("007", 3.0)]),
        # as spreadsheets, pandas and R write them
        ("csv", "utt1;3,05\nutt2;4\n", [("utt1", 3.05), ("utt2", 4.0)]),
        ("csv", '\ufeff"Wav";"MOS"\r\n"a, b";3,5\r\n', [("a, b", 3.5)]),
        ("tsv", "wav\tmos\n1,5\t3,05\nb\t4\n", [("1,5", 3.05), ("b", 4.0)]),
        ("csv", '"","wav","mos"\n"1","a.wav","3.5"\n', [("a.wav", 3.5)]),
        ("csv", ",mos\nutt1,3.5\n", [("utt1", 3.5)]),
        ("csv", "wav,mos,,\na,3,,\n", [("a", 3.0)]),
        ("csv", '"wav", "mos"\n"a", "3.5"\n', [("a", 3.5)]),
        ("sheet", "wav_path;score;sample_id\nx/a.wav;3,5;a\n", [("a", 3.5)]),
        ("distilmos-csv", ",id,path,score,error\n0,a,x,3.5,\n", [("a", 3.5)]),
    ],
)
def test_plain_tables(tmp_path, format, text, expected):
    file = read_scores(write(tmp_path, "f", text))
    assert (file.format, plain(file)) == (format, expected)


@pytest.mark.parametrize(
    "header, row",
    [
        ("id,mos,system", "a.wav,3.5,s1"),
        ("wav_path,score,system_id", "a.wav,3.5,s1"),
        ("sys\tfilename\trating\tage", "s1\ta.wav\t3.5\t20"),
        ("id,score,label,system,sys", "a.wav,3.5,1,s1,x"),  # ours, with further values
    ],
)
def test_common_headings(tmp_path, header, row):
    file = read_scores(write(tmp_path, "f", f"{header}\n{row}\n"))
    (record,) = file.records
    assert (record.id, record.score, record.system) == ("a.wav", 3.5, "s1")
    assert file.problems == file.notes == [] and file.metric == "mos"


@pytest.mark.parametrize(
    "header, utt_id, path, extra",
    [
        ("id,path,score,x", "a", "b", {"x": "d"}),
        ("utt,wav,mos,x", "a", "b", {"x": "d"}),
        ("File,utt_id,mos,x", "b", "a", {"x": "d"}),
        ("id,file,mos,wav", "a", None, {"file": "b", "wav": "d"}),  # which of them
        ("utt,path,mos,wav", "a", "b", {"wav": "d"}),
        ("x,path,mos,y", "b", None, {"x": "a", "y": "d"}),
    ],
)
def test_the_column_of_a_file_is_the_path_beside_an_id(
    tmp_path, header, utt_id, path, extra
):
    file = read_scores(write(tmp_path, "f", f"{header}\na,b,3,d\n"))
    assert file.records == [Score(utt_id, 3.0, path=path, extra=extra)]
    assert file.problems == file.notes == []


def test_ids_without_a_clear_winner(tmp_path):
    for header in ("utt,id,mos", "wav,path,mos", "name,file,mos", "utt,name,mos"):
        with pytest.raises(DataError, match="expected only one that can hold the id"):
            read_scores(write(tmp_path, "f", f"{header}\na,b,3\n"))
    # A named column is never the path as well.
    path = write(tmp_path, "f", "utt,wav,mos\na,b,3\n")
    file = read_scores(path, columns={"id": "wav"})
    assert file.records == [Score("b", 3.0, extra={"utt": "a"})]
    file = read_scores(path, columns={"id": "utt", "system": "wav"})
    assert file.records == [Score("a", 3.0, system="b")]


def test_headings_that_fit_more_than_once(tmp_path):
    path = write(tmp_path, "f", "utt,mos,rating,name\na,3,4,b\n")
    for columns, words in (({}, "utt, name"), ({"id": "utt"}, "mos, rating")):
        with pytest.raises(DataError, match=f"has the columns {words}, ") as error:
            read_scores(path, columns=columns)
        assert "--" not in str(error.value)
    merged = write(tmp_path, "merged", "id,mos,score\na,3,4\n")
    with pytest.raises(DataError, match="has the columns score, mos, expected only"):
        read_scores(merged)
    assert plain(read_scores(merged, metric="mos")) == [("a", 3.0)]
    file = read_scores(path, columns={"id": "utt"}, metric="rating")
    assert plain(file) == [("a", 4.0)]


# What is wrong


@pytest.mark.parametrize("format", list(FORMATS))
def test_bad_rows_are_named_and_the_others_kept(tmp_path, format):
    path = tmp_path / "f"
    write_scores(path, [Score(f"u{k}", k + 0.5) for k in range(1, 5)], format)
    text = path.read_text()
    last = len(text.splitlines())
    cells = ["nan", "1e999", "abc", "1_0", "٣"]
    cells += ['"3,05"', '"1,234"'] * (format not in ("tsv", "voicemos"))
    values = ["NaN", '"3.5"', "true", "[1]", "1" * 400]
    is_json = format in ("metric-scp", "versa", "distilmos-jsonl")
    for bad in (values if is_json else cells) + ["null"] * (format == "metric-scp"):
        file = read_scores(write(tmp_path, "f", text.replace("4.5", bad)), format)
        assert plain(file) == [("u1", 1.5), ("u2", 2.5), ("u3", 3.5), ("u4", None)]
        (problem,) = file.problems
        assert f"f:{last}: utterance u4 has the score " in problem
        assert "\n" not in problem
    # a line that is no row, and a second row of one id (in SHEET's data a second vote)
    lines = text.splitlines()
    lines[-2] = "broken"
    for changed in ["\n".join(lines)] + [text.replace("u3", "u1")] * (
        format != "sheet"
    ):
        file = read_scores(write(tmp_path, "f", changed), format)
        assert plain(file) == [("u1", 1.5), ("u2", 2.5), ("u4", 4.5)]
        (problem,) = file.problems
        assert f"f:{last - 1}: the " in problem


def test_line_numbers_count_lines_not_rows(tmp_path):
    text = 'id,path,score,error\n"a\nb",,1,\n\nc,,x,\n,,3,\n'
    first, second = read_scores(write(tmp_path, "f", text)).problems
    assert "f:5: utterance c" in second and "f:6: the row" in first


def test_wrong_fields_of_an_object(tmp_path):
    votes = '[["l", 2], ["l"], [null, 4], ["m", "5"]]'
    text = f'{{"id": "a", "score": null, "path": 3, "votes": {votes}}}\n'
    # an id that is a number, and one that is half of a surrogate pair
    text += '{"id": 7, "score": 1}\n{"id": "\\ud800", "score": 1}\n'
    file = read_scores(write(tmp_path, "v", text))
    assert file.records == [Score("a", 3.0, votes=[Vote(2.0, "l"), Vote(4.0)])]
    assert len(file.problems) == 5


@pytest.mark.parametrize(
    "text, format",
    [
        # of no format, or of more than one
        *[(t, None) for t in ("utt1 3.5\n", "a,b\nc,d\n", "a,b,c\n", "{\n")],
        ('{"key": "a", "id": 1, "score": 1}\n', None),
        # empty, an open quote, a column twice, no row
        *[(t, None) for t in ("\ufeff \r\n", ",,\n,,\n", 'id,score\n"a,3\nb,4\n')],
        *[(t, None) for t in ("id,score,score\na,3,4\n", "id,path,score,error\n")],
        # a column without a heading, one that is not clear, semicolons in answer.txt
        *[(t, None) for t in ("id,score,\na,3,05\n", "a;b,c\nd;e,f\n")],
        *[("utt1;3,05\n", "voicemos"), ("id,mos,MOS\na,3,4\n", None)],
        ("a\nb\n", "metric-scp"),
        ("a,3\n", "mosnet"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, text, format):
    with pytest.raises(DataError) as error:
        read_scores(write(tmp_path, "f", text), format)
    assert str(error.value).startswith(f"{tmp_path}/f")
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    assert "--" not in str(error.value)  # commands differ in their options


def test_missing_files_and_encodings(tmp_path):
    for path in (tmp_path, tmp_path / "none", write(tmp_path, "f", "a,3\n", "utf-16")):
        with pytest.raises(DataError, match="cannot be read"):
            read_scores(path)


def test_nothing_wrong_is_written(tmp_path):
    path = write(tmp_path, "out", "before")
    for records, format, words in (
        ([Score("a", 1.0), Score("a", 2.0)], "csv", "utterance a occurs a second time"),
        ([Score("a", math.nan)], "metric-scp", "utterance a .* score nan"),
        ([Score("a"), Score("b")], "voicemos", "none of the 2 utterances"),
    ):
        with pytest.raises(DataError, match=words):
            write_scores(path, records, format)
        assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_values_whose_names_are_taken_and_scores_that_are_no_mean(tmp_path):
    record = Score("a", 1.0, extra={"mos": 2.0, "key": 3.0, "id": 4.0, "score": 5.0})
    write_scores(tmp_path / "m", [record], "metric-scp")
    text = 'a {"mos": 1.0, "key": 3.0, "id": 4.0, "score": 5.0}\n'
    assert (tmp_path / "m").read_text() == text
    (note,) = write_scores(tmp_path / "v", [record], "versa")
    assert "cannot hold mos (1), key (1) of 1 utterances" in note
    assert "cannot hold score (1)" in write_scores(tmp_path / "s", [record], "sheet")[0]
    found = read_scores(tmp_path / "s").records[0]
    assert found == Score("a", 1.0, extra={"mos": 2.0, "key": 3.0, "id": 4.0})
    record = Score("a", 3.1, "s", "p", votes=[Vote(2.0, "l"), Vote(4.0, "m")])
    (note,) = write_scores(tmp_path / "s", [record], "sheet")
    assert "a score that is not the mean of the votes (1)" in note
    assert read_scores(tmp_path / "s").records[0].score == 3.0
