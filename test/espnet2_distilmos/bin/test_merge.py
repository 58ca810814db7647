# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin import predict
from espnet2_distilmos.bin.merge import main
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp


@pytest.fixture(scope="module")
def shards(scorer_dir, tmp_path_factory):
    """Eleven files, of which two are bad, in three shards and whole."""
    root = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    (root / "wav").mkdir()
    for k in range(11):
        wave = 0.1 * generator.normal(size=3000 + 1500 * (k % 5))
        soundfile.write(root / "wav" / f"s{k % 2}-{k:02d}.wav", wave, 16000)
    (root / "wav" / "s0-04.wav").write_bytes(b"nothing")
    (root / "wav" / "s1-07.wav").write_bytes(b"")
    options = [str(root / "wav"), "--model", str(scorer_dir), "--systems", "^(s.)"]
    options += ["--frames", str(root / "frames")]
    codes = [
        predict.main([*options, "--output", f"{root}/s.csv", "--shard", f"{n}/3"])
        for n in (3, 1, 2)
    ]
    assert sorted(codes) in ([0, 0, 1], [0, 1, 1])
    shutil.move(root / "frames", root / "old")
    whole = f"{root}/whole.csv"
    assert predict.main([*options, "--output", whole]) == 1
    return root


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_shards_make_the_table_of_one_machine(shards, tmp_path, capsys):
    names = [f"{shards}/s.{n}of3.csv" for n in (2, 3, 1)]
    capsys.readouterr()
    assert main([*names, "--output", f"{tmp_path}/m.csv"]) == 1
    printed = capsys.readouterr()
    assert "2 of 11 files have no score, see " in printed.err
    assert printed.out.splitlines()[1].startswith("s1 ") or "s0 " in printed.out
    merged, whole = table(tmp_path / "m.csv"), table(shards / "whole.csv")
    assert list(merged[0]) == list(whole[0])
    for one, other in zip(merged, whole, strict=True):
        scores = [float(row.pop("score") or "nan") for row in (one, other)]
        assert one == other
        np.testing.assert_allclose(*scores, atol=1e-4)
    assert read_scp(shards / "frames" / "frames.scp")
    parts = [table(name) for name in names]
    assert sum(map(len, parts)) == 11
    seconds = [sum(float(row["seconds"] or 0) for row in part) for part in parts]
    assert max(seconds) - min(seconds) < 0.6

    for suffix in ("jsonl", "scp"):
        assert main([*names, "--output", f"{tmp_path}/m.{suffix}"]) == 1
    rows = [json.loads(line) for line in open(tmp_path / "m.jsonl")]
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    assert len(read_metric_scp(f"{tmp_path}/m.scp")) == 9


def _edited(name, change, tmp_path):
    rows = table(name)
    path = tmp_path / "edited.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(change(rows))
    return str(path)


def test_what_does_not_make_a_whole_is_refused(shards, tmp_path, capsys):
    a, b, c = (f"{shards}/s.{n}of3.csv" for n in (1, 2, 3))

    def having(**cells):
        return _edited(c, lambda rows: [{**row, **cells} for row in rows], tmp_path)

    def cases():
        yield [a, c], "files are missing (the shards 2/3), expected all"
        yield [a, b, c, a], f"{a} and {a} both have s"
        yield [a, b, _edited(c, lambda rows: rows[1:], tmp_path)], "1 of 11 files are"
        yield [a, b, having(scorer="0123abcd")], "has the scorer "
        yield [a, b, having(inputs="11-ffff")], "run `predict --shard` on the same"
        yield [a, b, having(shard="3/4")], "has the number of shards 3 and "
        yield [a, b, having(place="12")], "no shard, place, inputs"
        yield [a, b, having(shard="x")], "found the shard x, expected"
        yield [f"{shards}/whole.csv"], "no shard, place, inputs"
        yield [f"{tmp_path}/absent.csv"], "cannot be read"
        yield [f"{tmp_path}/absent.scp"], "expected tables of `predict --shard`"

    for names, sentence in cases():
        assert main([*names, "--output", f"{tmp_path}/m.csv"]) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert main([a, b, c, "--output", f"{tmp_path}/m.txt"]) == 1
    assert "ends in .csv, .jsonl, .scp" in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()
    for options, sentence in (
        (["--shard", "4/3", "--output", "x.csv"], "found the shard 4/3"),
        (["--shard", "1/99", "--output", "x.csv"], "found 99 shards of 11 files"),
        (["--shard", "1/3"], "expected .csv or .jsonl for --shard"),
    ):
        assert predict.main([f"{shards}/wav", "--model", "x", *options]) == 1
        assert sentence in capsys.readouterr().err


def test_a_shard_is_not_written_over(shards, capsys):
    names = [f"{shards}/s.{n}of3.csv" for n in (1, 2, 3)]
    before = [Path(name).read_bytes() for name in names]
    assert main([*names, "--output", names[1]]) == 1
    assert "which is one of the tables" in capsys.readouterr().err
    assert [Path(name).read_bytes() for name in names] == before
