# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import dataclasses
import json
import math

import pytest

from espnet2_distilmos.data.datadir import DataError, parse_metric, read_metric_scp
from espnet2_distilmos.evaluation.formats import (
    FORMATS,
    Score,
    Vote,
    decode_name,
    detect_format,
    encode_name,
    read_scores,
    write_scores,
)

NAMES = [
    "plain",
    "dir/a b.wav",
    "comma, \"quote\" and 'tick'",
    '"quoted"',
    "two\nlines\r\nand\ttab",
    "carriage\rreturn",
    " blanks around ",
    "no\u00a0break\u3000space\u2028line",
    "日本語-ü.wav",
    "percent%20and%",
    "%:escaped already",
    "%:a%20b",
    "id",
    "{brace",
    "not utf-8 \udce9",
    "nul\x00",
]

# What each format can hold, from the owners' documentation and not from FORMATS
HOLDS = {
    "metric-scp": {"numbers", "text", "unlabelled"},
    "distilmos-csv": {
        *("system", "path", "error", "numbers", "text", "json", "inf", "unlabelled"),
    },
    "distilmos-jsonl": {
        *("system", "path", "votes", "error", "numbers", "text", "json", "unlabelled"),
    },
    "sheet": {"system", "path", "votes", "numbers", "text", "json", "inf"},
    "sheet-results": {"system", "path", "numbers", "text", "json", "inf"},
    "voicemos": set(),
    "versa": {"numbers", "text", "json", "unlabelled"},
    "csv": {"system", "numbers", "text", "json", "inf", "unlabelled"},
    "tsv": {"system", "numbers", "text", "json", "inf", "unlabelled"},
}


def kind(value):
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, list, dict)):
        return "json"
    return "numbers" if math.isfinite(value) else "inf"


def project(records, format):
    holds = HOLDS[format]
    projected = []
    for record in records:
        if record.score is None and "unlabelled" not in holds:
            continue
        projected.append(
            Score(
                record.id,
                record.score,
                system=record.system if "system" in holds else None,
                path=record.path if "path" in holds else None,
                votes=record.votes if "votes" in holds else [],
                error=record.error if "error" in holds else None,
                extra={k: v for k, v in record.extra.items() if kind(v) in holds},
            )
        )
    return projected


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
    records[9].score = -0.0
    records[10].score = 1e-17
    return records


def kept(path, records, format):
    write_scores(path, records, format)
    file = read_scores(path)  # told from the content alone
    assert file.format == format
    assert file.problems == [] and file.notes == [] and file.metric == "mos"
    return file.records


@pytest.mark.parametrize("first", list(HOLDS))
@pytest.mark.parametrize("second", list(HOLDS))
def test_all_pairs_lose_nothing_that_both_can_hold(tmp_path, first, second):
    records = make_records()
    untouched = make_records()
    in_first = kept(tmp_path / "1", records, first)
    assert in_first == project(records, first)
    in_second = kept(tmp_path / "2", in_first, second)
    assert in_second == project(in_first, second)
    again = kept(tmp_path / "3", in_second, first)
    assert again == project(in_second, first)
    assert len(again) >= len(NAMES) - 2
    assert records == untouched
    assert set(HOLDS) == set(FORMATS)


@pytest.mark.parametrize("format", list(HOLDS))
def test_what_is_lost_is_said_once(tmp_path, format):
    notes = write_scores(tmp_path / "f", make_records(), format)
    holds = HOLDS[format]
    for field, number in (("system", 15), ("path", 15), ("votes", 2), ("error", 1)):
        if field == "error" and "unlabelled" not in holds:
            continue  # the whole utterance is named below
        if "unlabelled" not in holds and field in ("system", "path"):
            number -= 2
        sentences = [n for n in notes if f"cannot hold the {field} of" in n]
        assert len(sentences) == (0 if field in holds else 1)
        assert all(f"of {number} utterance" in n for n in sentences)
    missing = [n for n in notes if "a missing score of 2 utterances" in n]
    assert len(missing) == (0 if "unlabelled" in holds else 1)
    values = [n for n in notes if "cannot hold the value" in n]
    lost = {kind for kind in ("numbers", "text", "json", "inf") if kind not in holds}
    assert len(values) == (1 if lost else 0)
    if not holds:
        assert "and 8 more of 4 utterances (the first is 'two\\nlines" in values[0]
    for sentence in values if holds else []:
        assert ("sir" in sentence) == ("inf" in lost)
        assert ("novel" in sentence) == ("json" in lost)
        assert ("lower" in sentence) == ("numbers" in lost)
    extra = [n for n in notes if "which SHEET wants" in n]
    assert len(extra) == (2 if format.startswith("sheet") else 0)


@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_and_fit_the_format(format, name):
    written = encode_name(name, format)
    assert decode_name(written) == name
    written.encode("utf-8")
    assert "\x00" not in written
    if format == "metric-scp":
        assert written.split() == [written]
    if format == "voicemos":
        assert written.strip() == written and "," not in written
        assert len(written.split("\n")) == len(written.split("\r")) == 1


def test_names_without_the_mark_are_left_alone(tmp_path):
    assert encode_name("a%20b", "metric-scp") == "a%20b"
    assert encode_name("a b", "metric-scp") == "%:a%20b"
    assert encode_name("a b", "voicemos") == "a b"
    assert encode_name("ü b", "metric-scp") == "%:ü%20b"
    (tmp_path / "metric.scp").write_text('a%20b {"mos": 1}\n%:a%20b {"mos": 2}\n')
    records = read_scores(tmp_path / "metric.scp").records
    assert [record.id for record in records] == ["a%20b", "a b"]
    with pytest.raises(DataError, match="half of a surrogate pair"):
        encode_name("\ud800", "csv")


# Files as their owners write them


def write(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def plain(file):
    return [(record.id, record.score) for record in file.records]


def test_metric_scp_of_aqa(tmp_path):
    path = write(
        tmp_path,
        "metric.scp",
        'b {"utmos": 3.5, "mos": 2, "real_language": "eng"}\n\na {}\nc {"utmos": 1}\n',
    )
    file = read_scores(path)
    assert (file.format, file.metric) == ("metric-scp", "mos")
    assert plain(file) == list(read_metric_scp(path).items())
    assert file.records[0].extra == {"utmos": 3.5, "real_language": "eng"}
    file = read_scores(path, metric="utmos")
    assert plain(file) == [("b", 3.5), ("a", None), ("c", 1.0)]
    assert file.records[0].extra["mos"] == 2
    write_scores(tmp_path / "out", file.records, "metric-scp", file.metric)
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["b", "a", "c"]
    assert parse_metric(lines[0].split(maxsplit=1)[1], "b", "", name="utmos") == 3.5
    with pytest.raises(DataError, match="no metric dnsmos, expected one of its utmos"):
        read_scores(path, metric="dnsmos")
    (tmp_path / "two").write_text('a {"x": 1, "y": 2}\n')
    with pytest.raises(DataError, match="has the metrics x, y, expected mos"):
        read_scores(tmp_path / "two")
    (tmp_path / "one").write_text('a {"x": 1}\nb {}\n')
    assert read_scores(tmp_path / "one").metric == "x"


def test_data_directory(tmp_path):
    (tmp_path / "metric.scp").write_text('a {"mos": 3}\n%:b%20b {"mos": 4.5}\n')
    (tmp_path / "utt2sys").write_text("%:b%20b system 2\nother x\n")
    (tmp_path / "votes.scp").write_text('a [["l1", 2], ["l2", 4]]\n%:b%20b [4]\n')
    assert detect_format(tmp_path) == "metric-scp"
    file = read_scores(tmp_path)
    assert file.path == str(tmp_path / "metric.scp")
    assert file.records == [
        Score("a", 3.0, votes=[Vote(2.0, "l1"), Vote(4.0, "l2")]),
        Score("b b", 4.5, system="system 2"),
    ]
    assert len(file.problems) == 1
    assert "votes.scp: utterance b b has the vote 4" in file.problems[0]


SHEET_DATA = (
    "wav_path,system_id,sample_id,phoneme,cluster,reference,listener_idx,domain_idx,"
    "score,listener_id\r\n"
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,a,0,2,4,{}_30-39_x_Female_Valid_1_No\r\n'
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,a,1,2,5,L2\r\n'
    "/w/sys2-utt2.wav,sys2,utt2,b,c,b,0,2,1,{}_30-39_x_Female_Valid_1_No\r\n"
    '/w/sys1-utt1.wav,sys1,utt1,"h,@",1e5,a,2,2,5,L3\r\n'
)


def test_sheet_data_is_a_row_a_vote(tmp_path):
    path = write(tmp_path, "bvcc_train.csv", SHEET_DATA)
    file = read_scores(path)
    assert (file.format, file.problems) == ("sheet", [])
    first, second = file.records
    assert (first.id, first.system, first.path) == ("utt1", "sys1", "/w/sys1-utt1.wav")
    assert first.score == 14 / 3
    assert first.votes == [
        Vote(4.0, "{}_30-39_x_Female_Valid_1_No", 0),
        Vote(5.0, "L2", 1),
        Vote(5.0, "L3", 2),
    ]
    assert first.extra["phoneme"] == "h,@"
    assert first.extra["cluster"] == "1e5"  # a name, not a number
    assert first.extra["domain_idx"] == 2
    assert second.score == 1.0 and len(second.votes) == 1
    write_scores(tmp_path / "out.csv", file.records, "sheet")
    with open(tmp_path / "out.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0])[:6] == [
        *("wav_path", "score", "system_id", "sample_id", "listener_id", "listener_idx")
    ]
    with open(path, newline="") as f:
        original = list(csv.DictReader(f))
    for row in original:
        row["score"] = f"{row['score']}.0"
    assert sorted(rows, key=str) == sorted(
        ({name: row[name] for name in rows[0]} for row in original), key=str
    )


def test_sheet_without_listeners_holds_means(tmp_path):
    header = "wav_path,score,system_id,sample_id\n"
    path = write(tmp_path, "a", header + "/w/a.wav,3.25,s,a\n/w/b.wav,2,s,b\n")
    assert read_scores(path).records[0] == Score("a", 3.25, "s", "/w/a.wav")
    path = write(tmp_path, "b", header + "/w/a.wav,3,s,a\n/w/a.wav,4,s,a\n")
    assert read_scores(path).records[0].votes == [Vote(3.0), Vote(4.0)]
    # benchmark sets have avg_score alone
    text = "wav_path,system_id,sample_id,avg_score\n/w/a.wav,s,a,2.5\n"
    file = read_scores(write(tmp_path, "c", text))
    assert (file.format, file.metric, plain(file)) == ("sheet", "mos", [("a", 2.5)])
    # which is what metric="avg_score" says too
    assert read_scores(tmp_path / "c", metric="avg_score") == file
    text = "wav_path,score,system_id,sample_id\n/w/a.wav,3,s,a\n/w/b.wav,4,t,a\n"
    file = read_scores(write(tmp_path, "d", text))
    assert len(file.problems) == 2
    assert "d:3: utterance a has the wav_path '/w/b.wav' and line 2" in file.problems[0]
    with pytest.raises(DataError, match="votes in the column score, and --metric is x"):
        read_scores(tmp_path / "d", metric="x")


def test_sheet_results(tmp_path):
    text = (
        "wav_path,system_id,sample_id,avg_score,answer,logvar\r\n"
        "/w/sys1-utt1.wav,sys1,utt1,2.25,2.137074,-0.50\r\n"
        "/w/sys1-utt2.wav,sys1,utt2,1.25,1.4225314,0.125\r\n"
    )
    path = write(tmp_path, "results.csv", text)
    file = read_scores(path)
    assert (file.format, file.metric) == ("sheet-results", "mos")
    assert plain(file) == [("utt1", 2.137074), ("utt2", 1.4225314)]
    assert file.records[0].extra == {"avg_score": 2.25, "logvar": -0.5}
    label = read_scores(path, metric="avg_score")
    assert label.metric == "avg_score"
    assert plain(label) == [("utt1", 2.25), ("utt2", 1.25)]
    assert label.records[0].extra == {"answer": 2.137074, "logvar": -0.5}
    # both ways round back to the owner's columns
    for number, source in enumerate((file, label)):
        out = tmp_path / f"out{number}"
        write_scores(out, source.records, "sheet-results", source.metric)
        expected = text.replace("\r", "").replace("-0.50", "-0.5")
        assert out.read_text() == expected
    # the prediction of another model beside no label
    write_scores(tmp_path / "bare", [Score("a", 3.0, "s", "/a.wav")], "sheet-results")
    assert (tmp_path / "bare").read_text().splitlines() == [
        "wav_path,system_id,sample_id,answer",
        "/a.wav,s,a,3.0",
    ]


def test_answer_txt(tmp_path):
    path = write(tmp_path, "answer.txt", "sys0a-utt1b,2.43\nsys9d-uttf9.wav,4\n")
    file = read_scores(path)
    assert file.format == "voicemos"
    assert plain(file) == [("sys0a-utt1b", 2.43), ("sys9d-uttf9.wav", 4.0)]
    assert [record.system for record in file.records] == ["sys0a", "sys9d"]
    assert write_scores(tmp_path / "out", file.records, "voicemos") == []
    assert (tmp_path / "out").read_text() == "sys0a-utt1b,2.43\nsys9d-uttf9.wav,4.0\n"
    # a system that the name does not tell is lost, and said so
    file.records[0].system = "sys9d"
    notes = write_scores(tmp_path / "out", file.records, "voicemos")
    assert (
        len(notes) == 1 and "the system of 1 utterance (the first is sys0a" in notes[0]
    )
    # elsewhere a dash means something else
    path = write(tmp_path, "b", "VoiceMOS2023Track1-A-AD_test_0026,4.42105263157895\n")
    assert read_scores(path).records[0].system is None


def test_answer_txt_with_heading_bom_crlf_and_holes(tmp_path):
    text = "\ufeffwavname,mos\r\n a b.wav , 3.5\r\n\r\nc,\r\nd.wav,1e0\r\n"
    path = write(tmp_path, "answer.txt", text)
    file = read_scores(path, format="voicemos", metric="utmos")
    assert plain(file) == [("a b.wav", 3.5), ("c", None), ("d.wav", 1.0)]
    assert file.metric == "utmos" and file.problems == []
    assert file.notes == [f"{path}:1: 'wavname,mos' was taken for the heading."]
    path = write(tmp_path, "b", "\ufeffutteranceId,mean\r\nx.wav,3.5\r\n")
    file = read_scores(path)
    assert (file.format, plain(file)) == ("csv", [("x.wav", 3.5)])
    assert len(file.notes) == 1


def test_versa(tmp_path):
    text = (
        '{"key": "1.wav", "utmos": 3.5, "sir": Infinity, "asr": "eng", "no": null}\n'
        '{"key": "a b"}\n'
    )
    file = read_scores(write(tmp_path, "result", text), metric="utmos")
    assert file.format == "versa"
    assert plain(file) == [("1.wav", 3.5), ("a b", None)]
    assert file.records[0].extra == {"sir": math.inf, "asr": "eng"}
    notes = write_scores(tmp_path / "out", file.records, "versa", "utmos")
    assert len(notes) == 1 and "the value sir of 1 utterance" in notes[0]
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [{"key": "1.wav", "utmos": 3.5, "asr": "eng"}, {"key": "a b"}]


def test_versa_as_python_literals(tmp_path):
    text = "{'key': 'd/1.wav', 'utmos': 1.5, 'sir': inf, 'x': -inf, 'l': [nan, None]}\n"
    file = read_scores(write(tmp_path, "utt_result.txt", text), metric="utmos")
    assert file.format == "versa" and plain(file) == [("d/1.wav", 1.5)]
    extra = file.records[0].extra
    assert extra["sir"] == math.inf and extra["x"] == -math.inf
    assert math.isnan(extra["l"][0])
    # nothing is evaluated
    bad = "{'key': 'b', 'utmos': __import__('os').getpid()}\n"
    file = read_scores(write(tmp_path, "bad", text + bad), metric="utmos")
    assert len(file.records) == len(file.problems) == 1
    assert "bad:2: the line is" in file.problems[0]


def test_distilmos_prediction(tmp_path):
    text = (
        "id,path,score,error,lower,upper,novelty,novel,seconds,system\n"
        'a b,/w/a b.wav,3.1250,,2.50,3.75,0.1,false,1.50,"s,1"\n'
        "c,/w/c.wav,,/w/c.wav is empty.,,,,,,\n"
    )
    file = read_scores(write(tmp_path, "scores.csv", text))
    assert file.format == "distilmos-csv"
    assert file.records == [
        Score(
            "a b",
            3.125,
            "s,1",
            "/w/a b.wav",
            extra={
                **{"lower": 2.5, "upper": 3.75, "novelty": 0.1},
                **{"novel": False, "seconds": 1.5},
            },
        ),
        Score("c", None, path="/w/c.wav", error="/w/c.wav is empty."),
    ]
    write_scores(tmp_path / "out.csv", file.records[::-1], "distilmos-csv")
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == text.splitlines()[0]
    write_scores(tmp_path / "out.jsonl", file.records, "distilmos-jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert line == {
        **{"id": "c", "path": "/w/c.wav", "score": None},
        **{"error": "/w/c.wav is empty.", "system": None},
    }
    assert read_scores(tmp_path / "out.jsonl").records == file.records
    for name in ("scores.csv", "out.jsonl"):
        lower = read_scores(tmp_path / name, metric="lower")
        assert (lower.metric, plain(lower)) == ("lower", [("a b", 2.5), ("c", None)])
        assert lower.records[0].extra["score"] == 3.125
        assert read_scores(tmp_path / name, metric="mos").records == file.records
    notes = write_scores(tmp_path / "x", lower.records, "distilmos-csv", "lower")
    assert any("cannot hold the score's name, lower" in note for note in notes)


def test_columns_by_name_and_number(tmp_path):
    text = "\ufeffFilename,Condition,MOS\nC_01.wav,1,4.58\nC_02.wav,2,1\n"
    path = write(tmp_path, "answer.csv", text)
    columns = {"id": "Filename", "score": "MOS", "system": "Condition"}
    file = read_scores(path, columns=columns)
    assert file.records == [Score("C_01.wav", 4.58, "1"), Score("C_02.wav", 1.0, "2")]
    numbers = read_scores(path, "csv", columns={"id": 1, "score": 3, "system": "2"})
    assert numbers.records == file.records and len(numbers.notes) == 1
    metric = read_scores(path, metric="MOS", columns={"id": "Filename"})
    assert metric.metric == "MOS" and plain(metric) == plain(file)
    assert metric.records[0].extra == {"Condition": 1}
    with pytest.raises(DataError, match="no column mos, expected one of its Filename"):
        read_scores(path, columns={"id": "Filename", "score": "mos"})
    with pytest.raises(DataError, match="no column 4"):
        read_scores(path, "csv", columns={"id": 1, "score": 4})
    with pytest.raises(DataError, match="no column id, expected it among its Filename"):
        read_scores(path, "csv")
    # BVCC's votes, without a heading
    text = (
        "sys64,sys64-utt9.wav,4,junk,{}_30_Female\nsys65,sys65-utt1.wav,2,j,L2\n"
        "sys64,sys64-utt9.wav,1,junk,L2\n"
    )
    path = write(tmp_path, "TRAINSET", text)
    columns = {"system": 1, "id": 2, "score": 3, "listener": 5}
    file = read_scores(path, columns=columns)
    assert [record.system for record in file.records] == ["sys64", "sys65"]
    assert file.records[0].votes == [Vote(4.0, "{}_30_Female"), Vote(1.0, "L2")]
    assert file.records[0].extra == {"4": "junk"} and file.problems == []
    with pytest.raises(DataError, match="read as voicemos, whose columns are known"):
        read_scores(path, "voicemos", columns=columns)


def test_plain_tables(tmp_path):
    path = write(tmp_path, "a", '"a, b",3.5\n"c\nd",2\n')
    assert detect_format(path) == "csv"
    assert plain(read_scores(path)) == [("a, b", 3.5), ("c\nd", 2.0)]
    path = write(tmp_path, "b", "a, b\t3.5\nc\t2\n")
    assert plain(read_scores(path, "tsv")) == [("a, b", 3.5), ("c", 2.0)]
    path = write(tmp_path, "c", "name\tmos\r\na b\t3.5\r\n")
    file = read_scores(path)
    assert (file.format, plain(file)) == ("tsv", [("a b", 3.5)])
    assert read_scores(path, metric="mos").records == file.records
    path = write(tmp_path, "d", "score,x,id\n3,9,a\n")
    assert read_scores(path).records == [Score("a", 3.0, extra={"x": 9})]


# What is wrong


BAD = "nan inf -inf 1e999 3,5 abc 1_0 0x1 ٣ 3.5.1".split()


@pytest.mark.parametrize("cell", BAD)
@pytest.mark.parametrize("format", ["distilmos-csv", "sheet", "voicemos", "tsv"])
def test_a_score_that_is_no_number_is_named(tmp_path, format, cell):
    write_scores(tmp_path / "f", [Score("u1", 1.5), Score("u2", 2.5)], format)
    text = (tmp_path / "f").read_text()
    quoted = f'"{cell}"' if "," in cell and format != "voicemos" else cell
    (tmp_path / "f").write_text(text.replace("2.5", quoted))
    file = read_scores(tmp_path / "f", format)
    line = len(text.splitlines())
    if format == "voicemos" and "," in cell:  # its owners split at every comma
        assert plain(file) == [("u1", 1.5)]
        assert file.problems[0].startswith(f"{tmp_path}/f:2: the line is 'u2,3,5'")
        return
    assert plain(file) == [("u1", 1.5), ("u2", None)]
    expected = f"{tmp_path}/f:{line}: utterance u2 has the score {cell!r}, expected a"
    assert len(file.problems) == 1 and file.problems[0].startswith(expected)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", '"3.5"', "true", "[1]", "1" * 400]
)
@pytest.mark.parametrize("format", ["metric-scp", "versa", "distilmos-jsonl"])
def test_a_json_score_that_is_no_number_is_named(tmp_path, format, value):
    write_scores(tmp_path / "f", [Score("u1", 1.5), Score("u2", 2.5)], format)
    text = (tmp_path / "f").read_text().replace("2.5", value)
    (tmp_path / "f").write_text(text)
    file = read_scores(tmp_path / "f")
    assert plain(file) == [("u1", 1.5), ("u2", None)]
    assert len(file.problems) == 1
    assert f"{tmp_path}/f:2: utterance u2 has the score " in file.problems[0]


def test_null_is_no_score_but_in_metric_scp(tmp_path):
    path = write(tmp_path, "m", 'a {"mos": 1}\nb {"mos": null}\n')
    assert len(read_scores(path).problems) == 1
    path = write(tmp_path, "v", '{"key": "a", "mos": 1}\n{"key": "b", "mos": null}\n')
    assert read_scores(path).problems == []


@pytest.mark.parametrize("format", [f for f in FORMATS if f != "sheet"])
def test_second_rows_of_an_id_are_left_out(tmp_path, format):
    records = [Score("u1", 1.5), Score("u2", 2.5), Score("u3", 3.5)]
    write_scores(tmp_path / "f", records, format)
    text = (tmp_path / "f").read_text()
    (tmp_path / "f").write_text(text.replace("u3", "u1"))
    file = read_scores(tmp_path / "f")
    assert plain(file) == [("u1", 1.5), ("u2", 2.5)]
    (problem,) = file.problems
    last = len(text.splitlines())
    assert f"f:{last}: the id u1 occurs a second time" in problem
    assert f"line {last - 2} was used" in problem


def test_broken_lines_do_not_hide_the_others(tmp_path):
    text = 'a {"mos": 1}\nb\nc {"mos": }\nd [1]\ne {"mos": 5}\n'
    file = read_scores(write(tmp_path, "m", text))
    assert plain(file) == [("a", 1.0), ("e", 5.0)]
    assert [p.split(": ")[0][-2:] for p in file.problems] == [":2", ":3", ":4"]
    text = "id,path,score,error\na,,1,\nb,,2\n,,3,\nc,,4,,x\nd,,5,\n"
    file = read_scores(write(tmp_path, "c", text))
    assert plain(file) == [("a", 1.0), ("d", 5.0)]
    assert [p.split(": ")[0][-2:] for p in file.problems] == [":3", ":4", ":5"]
    text = '{"id": "a", "score": 1}\n{"id": 7, "score": 1}\n{"score": 2}\nx\n'
    file = read_scores(write(tmp_path, "j", text))
    assert plain(file) == [("a", 1.0)] and len(file.problems) == 3
    text = (
        '{"id": "a", "score": null, "path": 3, "votes": [["l", 2], ["l"], [null, 4],'
        ' ["m", "5"]]}\n'
    )
    file = read_scores(write(tmp_path, "v", text))
    assert file.records == [Score("a", 3.0, votes=[Vote(2.0, "l"), Vote(4.0)])]
    assert len(file.problems) == 3


def test_line_numbers_count_lines_not_rows(tmp_path):
    text = 'id,path,score,error\n"a\nb",,1,\n\nc,,x,\n'
    (problem,) = read_scores(write(tmp_path, "f", text)).problems
    assert "f:5: utterance c" in problem


@pytest.mark.parametrize(
    "text, reason",
    [
        ("utt1 3.5\n", "first row has the cells 'utt1 3.5'"),
        ("a,b\nc,d\n", "second column holds 'b', no score"),
        ("a,b,c\n", "first row has the cells 'a', 'b', 'c'"),
        ('{"utt": "a"}\n', "neither id and score nor key"),
        ('{"key": "a", "id": "a", "score": 1}\n', "both id and score, and key"),
        ('[{"key": "a"}]\n', "first row has the cells"),
        ("{\n", "first row has the cells"),
        ("wav_path,sample_id\nx,y\n", "second column holds"),
    ],
)
def test_unclear_formats_list_the_formats(tmp_path, text, reason):
    path = write(tmp_path, "f", text)
    with pytest.raises(DataError, match=f"f: the format is not clear .*{reason}") as e:
        read_scores(path)
    assert all(f"{name} (" in str(e.value) for name in FORMATS)
    assert "\n" not in str(e.value)


def test_unreadable_files(tmp_path):
    for text, match in (("", "is empty"), ("\ufeff \r\n", "is empty")):
        with pytest.raises(DataError, match=match):
            read_scores(write(tmp_path, "f", text))
    with pytest.raises(DataError, match="is not UTF-8 text .* at byte 0"):
        read_scores(write(tmp_path, "f", "a,3\n", "utf-16"))
    with pytest.raises(DataError, match="none cannot be read"):
        read_scores(tmp_path / "none")
    with pytest.raises(DataError, match="metric.scp cannot be read"):
        read_scores(tmp_path)
    with pytest.raises(DataError, match="format mosnet is not known"):
        read_scores(tmp_path / "f", "mosnet")
    with pytest.raises(DataError, match="f:2: the row cannot be read .*every quote"):
        read_scores(write(tmp_path, "f", 'id,score\n"a,3\nb,4\n'))
    for format in (None, "sheet"):
        with pytest.raises(DataError, match="f has only empty cells"):
            read_scores(write(tmp_path, "f", ",,\n,,\n"), format)
    with pytest.raises(DataError, match="has score twice"):
        read_scores(write(tmp_path, "f", "id,score,score\na,3,4\n"))
    with pytest.raises(DataError, match=r"f:1: the line is 'a'.*None of 1 more lines"):
        read_scores(write(tmp_path, "f", "a\nb\n"), "metric-scp")
    with pytest.raises(DataError, match="f holds no utterance"):
        read_scores(write(tmp_path, "f", "id,path,score,error\n"))


def test_nothing_wrong_is_written(tmp_path):
    path = tmp_path / "out"
    path.write_text("before")
    for records, format, match in (
        ([Score("a", 1.0), Score("a", 2.0)], "csv", "a occurs a second time"),
        ([Score("a", math.nan)], "metric-scp", "a has the score nan"),
        ([Score("a"), Score("b")], "voicemos", "none of the 2 utterances has a score"),
        ([], "csv", "none of the 0"),
    ):
        with pytest.raises(DataError, match=match):
            write_scores(path, records, format)
        assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_values_whose_names_are_taken(tmp_path):
    record = Score("a", 1.0, extra={"mos": 2.0, "key": 3.0, "id": 4.0, "score": 5.0})
    write_scores(tmp_path / "m", [record], "metric-scp")
    assert (tmp_path / "m").read_text() == (
        'a {"mos": 1.0, "key": 3.0, "id": 4.0, "score": 5.0}\n'
    )
    notes = write_scores(tmp_path / "v", [record], "versa")
    assert any("the values mos, key of 1 utterance" in note for note in notes)
    notes = write_scores(tmp_path / "s", [record], "sheet")
    assert any("the value score of 1 utterance" in note for note in notes)
    assert read_scores(tmp_path / "s").records[0] == dataclasses.replace(
        record, extra={"mos": 2.0, "key": 3.0, "id": 4.0}
    )


def test_a_score_that_is_not_the_mean_of_its_votes(tmp_path):
    record = Score("a", 3.1, "s", "p", votes=[Vote(2.0, "l"), Vote(4.0, "m")])
    (note,) = write_scores(tmp_path / "s", [record], "sheet")
    assert "a score that is not the mean of the votes of 1 utterance" in note
    assert read_scores(tmp_path / "s").records[0].score == 3.0
    assert write_scores(tmp_path / "j", [record], "distilmos-jsonl") == []
    assert read_scores(tmp_path / "j").records == [record]
