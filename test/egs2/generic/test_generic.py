# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe generic: anybody's table of ratings."""

import json
import statistics

import pytest


@pytest.fixture
def table(recipes, tone, tmp_path):
    """Return a function that writes a table and its audio, and runs stage 1."""
    recipes.add("generic")

    def run(lines, *options, audio=(), code=0, name="ratings.csv"):
        path = tmp_path / "own data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for n, wav in enumerate(audio):
            target = path.parent / wav
            target.parent.mkdir(parents=True, exist_ok=True)
            # Readers look at the content, soundfile's writer at endings that it knows.
            tone(path.parent / "tone.wav", hertz=100 + 10 * n)
            (path.parent / "tone.wav").rename(target)
        options = ("local/data.sh", "--csv", path, *options)
        return recipes.run("generic", *options, code=code)

    return recipes, run, tmp_path / "own data"


def every_set(recipes, name="scores"):
    """Return {set: what ``name`` of Recipes gives}."""
    folder = recipes.root / "egs2" / "generic" / "mos1" / "data"
    return {
        path.parent.name: getattr(recipes, name)("generic", f"data/{path.parent.name}")
        for path in sorted(folder.glob("*/wav.scp"))
    }


def test_one_row_a_vote_in_sheets_format(table):
    recipes, run, folder = table
    lines = ["wav_path,score,system_id,sample_id,listener_id,listener_idx,split"]
    wavs = [f"clips/s{n % 2}/utt {n}.wav" for n in range(6)]
    for n, wav in enumerate(wavs):
        split = ("train", "train", "train", "valid", "test", "test")[n]
        for v in range(3):
            lines.append(
                f"{wav},{1 + (n + v) % 5},s{n % 2},utt{n},rater {v},{v},{split}"
            )
    result = run(lines, audio=wavs)
    assert "wav is wav_path, score is score, system is system_id" in result.stderr
    assert "All is well; go on with ./run.sh --stage 2" in result.stderr
    expected = {
        f"clips_s{n % 2}_utt_{n}": sum(1 + (n + v) % 5 for v in range(3)) / 3
        for n in range(6)
    }
    sets = every_set(recipes)
    assert [len(sets[name]) for name in ("train", "dev", "test")] == [3, 1, 2]
    merged = {u: s for scores in sets.values() for u, s in scores.items()}
    assert merged == pytest.approx(expected)
    votes = recipes.table("generic", "data/dev/votes.scp")["clips_s1_utt_3"]
    assert json.loads(votes) == [["rater_0", 4], ["rater_1", 5], ["rater_2", 1]]
    audio = recipes.table("generic", "data/dev/wav.scp")["clips_s1_utt_3"]
    assert audio == f"{folder}/{wavs[3]}"


def test_semicolons_named_columns_another_scale_and_systems_in_the_path(table):
    recipes, run, _ = table
    wavs = [f"{system}/{n}.flac" for system in ("a", "b") for n in range(10)]
    lines = ["Datei;Urteil;Satz"]
    lines += [f"{wav[:-5]};{5 * n};satz {n % 10}" for n, wav in enumerate(wavs)]
    result = run(
        lines,
        *("--wav_column", "Datei", "--score_column", "Urteil"),
        *("--source_column", "Satz", "--score_range", 0, 100),
        *("--system_regex", "/([^/]*)/[^/]*$", "--dev_share", 0.2),
        audio=wavs,
    )
    sets = every_set(recipes)
    # The sentence of two clips stays in one set: shares are met in whole sentences.
    assert {name: len(s) for name, s in sets.items()} == dict(train=14, dev=4, test=2)
    sources = {
        name: set(recipes.table("generic", f"data/{name}/utt2src").values())
        for name in sets
    }
    assert sum(map(len, sources.values())) == len(set().union(*sources.values())) == 10
    assert set(recipes.table("generic", "data/train/utt2sys").values()) == {"a", "b"}
    for name in sets:
        path = (
            recipes.root / "egs2" / "generic" / "mos1" / "data" / name / "score_range"
        )
        assert path.read_text() == "0 100\n"
    # The same on every machine, in any order of the rows.
    run([lines[0], *reversed(lines[1:])], *result.args[3:])
    assert every_set(recipes) == sets


def test_an_answer_list_without_names_or_systems(table):
    recipes, run, _ = table
    lines = [f"utt{n},{1 + n / 10}" for n in range(20)]
    wavs = [f"utt{n}.wav" for n in range(20)]
    options = ("--systems", "false", "--test_share", 0, "--dev_share", 0.5)
    run(lines, *options, audio=wavs)
    sets = every_set(recipes)
    assert {name: len(scores) for name, scores in sets.items()} == dict(
        dev=10, train=10
    )
    folder = recipes.root / "egs2" / "generic" / "mos1" / "data" / "train"
    assert not (folder / "utt2sys").exists()


@pytest.mark.parametrize(
    "lines, labels",
    [
        # exact names first
        (["wav,mos,mos2,system", "a.wav,3,4,s"], {"a": 3}),
        (["WAV,mos2,mos_3,System,Mos,rating 1", "a.wav,1,2,s,3,4"], {"a": 3}),
        # a vote a column; an empty one is none
        (
            [
                "wav,rating_1,rating_2,rating_3,system",
                "a.wav,3,5,4.5,s",
                "b.wav,1,,2,s",
            ],
            {"a": [3, 5, 4.5], "b": [1, 2]},
        ),
        # R's write.csv, pandas' QUOTE_ALL, a heading of two columns that nobody needs
        (['"","wav","mos","system"', '"1","a.wav",3.5,"s"'], {"a": 3.5}),
        (['"wav","mos","system"', '"a.wav","3.5","s,1"'], {"a": 3.5}),
        (["wav,x,x,mos,system", "a.wav,1,2,3,s"], {"a": 3}),
        # semicolons and tabs with decimal commas
        (["\ufeffWav;MOS;System", "a.wav;3,05;s", "b.wav;4;s"], {"a": 3.05, "b": 4}),
        (["wav\tmos\tsystem", "a.wav\t3,05\ts"], {"a": 3.05}),
        (["wav;mos_1;mos_2;system", "a.wav;3,5;4;s"], {"a": [3.5, 4]}),
    ],
)
def test_a_label_comes_from_its_own_column(table, lines, labels):
    recipes, run, _ = table
    wavs = [f"{name}.wav" for name in labels]
    run(lines, "--test_share", 0, "--dev_share", 0, audio=wavs)
    votes = {name: label for name, label in labels.items() if isinstance(label, list)}
    means = {name: statistics.mean(scores) for name, scores in votes.items()}
    assert every_set(recipes) == {"train": pytest.approx({**labels, **means})}
    for name in votes:
        found = json.loads(recipes.table("generic", "data/train/votes.scp")[name])
        assert [score for _, score in found] == votes[name]
        assert len({listener for listener, _ in found}) == len(found)


def test_a_list_without_names_between_semicolons(table):
    recipes, run, _ = table
    options = ("--systems", "false", "--test_share", 0, "--dev_share", 0)
    run(["utt1;3,05", "utt2;4"], *options, audio=("utt1.opus", "utt2.WAV"))
    assert every_set(recipes) == {"train": {"utt1": 3.05, "utt2": 4}}
    wavs = recipes.table("generic", "data/train/wav.scp")
    assert [path.rsplit("/")[-1] for path in wavs.values()] == ["utt1.opus", "utt2.WAV"]
    # Between commas a number with a comma may be thousands: what is wrong is said.
    result = run(['"utt1","3,05"', '"utt2","4"'], *options, code=1)
    assert "clip utt1 has the score '3,05', expected a number from" in result.stderr


def test_names_are_those_of_files_as_people_see_them(table):
    recipes, run, folder = table
    composed, decomposed = "cl\u00e9", "cle\u0301"
    given = [f"{composed}\\a.WAV", "b.WAVE", f"./{composed}/c", "d.flac"]
    wavs = [f"{decomposed}/a.wav", "b.wave", f"{decomposed}/c.rf64", "d.flac"]
    lines = ["wav,mos,system", *(f"{name},3,s" for name in given)]
    options = ("--test_share", 0, "--dev_share", 0)
    run(lines, *options, audio=wavs)
    ids = [f"{composed}_a", f"{composed}_c", "b", "d"]
    assert sorted(every_set(recipes)["train"]) == sorted(ids)
    # what is equal only then is not one
    for more, audio, sentence in (
        (f"{decomposed}/a.wav", wavs, "looks like"),
        ("d.FLAC", wavs, "clip 'd.FLAC' looks like 'd.flac' of an earlier row"),
        ("e", [*wavs, "e.wav", "e.ogg"], "e.ogg or "),
    ):
        result = run([*lines, f"{more},4,s"], *options, audio=audio, code=1)
        assert sentence in result.stderr and "1 faults" in result.stderr
        assert set(every_set(recipes)["train"].values()) == {3}


def test_tables_for_each_set(table):
    recipes, run, folder = table
    folder.mkdir()
    for name, wav in (("dev", "b.wav"), ("test", "c.wav")):
        (folder / f"{name}.tsv").write_text(f"file\tmos\tmethod\n{wav}\t2\tx\n")
    run(
        ["file,mos,method", "a.wav,3,x"],
        *("--dev_csv", folder / "dev.tsv", "--test_csv", folder / "test.tsv"),
        audio=("a.wav", "b.wav", "c.wav"),
    )
    assert every_set(recipes) == {"train": {"a": 3}, "dev": {"b": 2}, "test": {"c": 2}}


def test_every_fault_is_told_at_once_before_any_training(table):
    recipes, run, folder = table
    good = [f"good{n}.wav,3,x,train" for n in range(3)] + ["good3.wav,4,x,dev"]
    wavs = [line.split(",")[0] for line in good]
    (folder / "clips").mkdir(parents=True)
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").write_bytes(b"")
    bad = [
        ("none.wav,3,x,train", "audio of 1 of 5 clips is missing"),
        ("text.wav,3,x,dev", "text.wav cannot be read as audio"),
        ("empty.wav,3,x,train", "empty.wav is empty (0 bytes)"),
        ("good0.wav,9,x,train", "clip good0 has the score '9'"),
        ("good1.wav,3,x,train", "clip good1 has a second row"),
        ("good2.wav,3,x,dev", "good2 is good2 of train"),
        ("good3.wav,3", "has 2 fields, expected 4"),
        ("good4.wav,3,,train", "clip good4.wav has no system"),
    ]
    result = run(
        ["wav,mos,system,set", *good, *(b for b, _ in bad)], code=1, audio=wavs
    )
    for _, sentence in bad:
        assert sentence in result.stderr
    assert "All is well" not in result.stderr
    assert set(every_set(recipes)["train"]) >= {"good0", "good1", "good2"}


@pytest.mark.parametrize(
    "lines, options, sentence",
    [
        (["a,b", "1,2"], (), "none of them is known to hold the wav"),
        (["wav,b", "1,2"], (), "known to hold the score; name it with --score_column"),
        (["wav,mos", "1,2"], ("--system_column", "x"), "but not x"),
        (["wav,mos"], (), "has no rows"),
        # R's write.table: the heading lacks that of the row names
        (['"wav"\t"mos"', '"1"\t"a"\t3'], (), ":2 has 3 fields, expected 2 (wav, mos)"),
        (
            ["wav,mos,rating", "1,2,3"],
            (),
            "mos, rating, each of which could hold the s",
        ),
        (["wav,mos,MOS", "1,2,3"], (), "mos, MOS, each of which could hold the score"),
        (["wav,mos,mos", "1,2,3"], (), "name it with --score_column"),
        (["wav,a,a", "1,2,3"], ("--score_column", "a"), "has the heading a 2 times"),
        (["wav,mos2", "1,2"], (), "known to hold the score"),
        (
            ["wav,mos1,mos2,rating1,rating2", "1,2,3,4,5"],
            (),
            "mos1, mos2, rating1, rat",
        ),
        (["wav,mos1,mos2,rater", "1,2,3,x"], (), "a column a listener or a row a vote"),
        (["wav,file,mos", "1,2,3"], (), "could hold the wav, expected one such column"),
        (["wav,mos,", "1,3,05"], (), ":2: column 3 has '05' and no heading"),
        (["wav;x,mos", "a;b,c"], (), "its first line has a comma and a semicolon"),
        (["wav,mos1,mos2", "a,2,3", "a,4,5"], (), ":3: clip a has a second row of v"),
    ],
)
def test_a_table_that_is_not_understood(table, lines, options, sentence):
    _, run, _ = table
    assert sentence in run(lines, *options, code=1).stderr


def test_a_missing_table_and_a_missing_option(table):
    recipes, _, folder = table
    missing = folder / "none.csv"
    result = recipes.run("generic", "local/data.sh", "--csv", missing, code=1)
    assert f"{missing} cannot be read" in result.stderr
    for options in ((), ("--sets", "test", "--download", "false")):
        result = recipes.run("generic", "local/data.sh", *options, code=1)
        assert result.stderr.count("\n") == 1 and "--local_data_opts" in result.stderr
    result = recipes.run("generic", "local/data.sh", "--help")
    assert "usage: local/data.sh" in result.stdout and not result.stderr


def test_what_is_lost_is_not_well(table):
    recipes, run, folder = table
    lines = ["wav,mos,system,set", "a.wav,3,x,train", "b.wav,3,x,dev"]
    out = folder / "out"
    result = run(
        [*lines, "c.wav,9,x,dev"], "--skip_bad", "true", audio=("a.wav",), code=1
    )
    assert "data lacks dev" in result.stderr and "All is well" not in result.stderr
    options = ("--skip_bad", "true", f"--out={out}")
    result = run([*lines, "c.wav,9,x,dev"], *options, audio=("a.wav", "b.wav"))
    assert "All is well" not in result.stderr
    (folder / "b.wav").write_text("no audio")
    result = run(lines, f"--out={out}", code=1)
    assert "b.wav cannot be read as audio" in result.stderr
    assert "All is well" in run(lines, f"--out={out}", "--sets", "train").stderr
    # All of one sentence are in one set, so that none is left for the others.
    lines = ["wav,mos,system,sentence", "a.wav,3,x,1"]
    assert "data lacks train, dev" in run(lines, "--skip_bad", "true", code=1).stderr
