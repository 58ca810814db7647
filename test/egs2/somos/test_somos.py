# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe somos on a fabricated somos.zip, unpacked."""

import json
import shutil

import pytest

SETS = {"train": 9, "valid": 3, "test": 6}
SENTENCES = ("novel_2007_0098", "LJ003-0012", "wiki_general_00214")


def fabricate(folder, tone, counts=SETS, nested=False):
    """Write the lists and the audio; return {subset: {set: {utt_id: scores}}}."""
    truth = {"clean": {}, "full": {}}
    audio = folder / "audios" / "audios" if nested else folder / "audios"
    number = 0
    for name, count in counts.items():
        utterances = []
        for i in range(count):
            number += 1
            system = f"{(number * 5) % 201:03d}" if i else "000"
            utterances.append((f"{SENTENCES[i % 3]}{number:02d}_{system}", system))
            tone(audio / f"{utterances[-1][0]}.wav", 0.2, 24000, 100 + 9 * number)
        for subset in ("full", "clean"):
            lists = folder / "training_files" / "split1" / subset
            lists.mkdir(parents=True, exist_ok=True)
            rows, means = ["systemId,utteranceId,choice,listenerId"], [
                "utteranceId,mean"
            ]
            truth[subset][name] = {}
            for n, (utt_id, system) in enumerate(utterances):
                scores = [1 + (n + v) % 5 for v in range(17)]
                scores = scores if subset == "full" else scores[::2]
                truth[subset][name][utt_id] = scores
                rows += [
                    f"{system},{utt_id}.wav,{score},KEXM495720206{v:05d}"
                    for v, score in enumerate(scores)
                ]
                means.append(f"{utt_id}.wav,{sum(scores) / len(scores)}")
            (lists / f"{name.upper()}SET").write_text("\n".join(rows) + "\n")
            (lists / f"{name}_mos_list.txt").write_text("\n".join(means) + "\n")
    return truth


@pytest.mark.parametrize("nested", [False, True])
def test_clean_and_full_and_the_three_ids(recipes, tone, tmp_path, nested):
    recipes.add("somos")
    truth = fabricate(tmp_path / "somos", tone, nested=nested)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("somos", *options, SOMOS=tmp_path / "somos")
    for subset, ending in (("clean", ""), ("full", "_full")):
        for name, data in (("train", "train"), ("valid", "dev"), ("test", "test")):
            folder = f"data/{data}{ending}"
            expected = truth[subset][name]
            means = {u: sum(s) / len(s) for u, s in expected.items()}
            assert recipes.scores("somos", folder) == pytest.approx(means)
            votes = recipes.table("somos", f"{folder}/votes.scp")
            assert {
                u: [score for _, score in json.loads(v)] for u, v in votes.items()
            } == expected
            systems = recipes.table("somos", f"{folder}/utt2sys")
            sources = recipes.table("somos", f"{folder}/utt2src")
            for utt_id in expected:
                assert systems[utt_id][:5] == "somos"
                assert f"{sources[utt_id]}_{systems[utt_id][5:]}" == utt_id
    assert "somos000" in systems.values()
    faults = [s for s in result.stderr.splitlines() if "expected" in s]
    assert len(faults) == 6  # the counts, and nothing else: clean and full share audio
    assert all("that were published" in fault for fault in faults)


def test_oddities(recipes, tone, tmp_path):
    recipes.add("somos")
    somos = tmp_path / "somos"
    truth = fabricate(somos, tone)
    path = somos / "training_files" / "split1" / "clean" / "TESTSET"
    header, *rows = path.read_text().splitlines()
    first, *others = truth["clean"]["test"]
    # Columns in another order, names quoted; a natural clip rated twice alike.
    rows[0] = "001," + rows[0].split(",", 1)[1]  # not the system of the utterance
    rows.append(rows[-1])
    rows = [",".join(reversed(row.split(","))) for row in rows]
    path.write_text("\n".join([",".join(reversed(header.split(","))), *rows]) + "\n")
    (somos / "audios" / f"{others[0]}.wav").unlink()
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("somos", *options, SOMOS=somos)
    assert f"{path}:2: utteranceId {first}.wav does not end in its systemId '001'" in (
        result.stderr
    )
    assert f"clip {others[-1]} has the published mean" in result.stderr
    assert f"is missing in {somos}/audios ({others[0]}.wav;" in result.stderr
    votes = recipes.table("somos", "data/test/votes.scp")
    counts = {u: len(json.loads(v)) for u, v in votes.items()}
    full = {u: len(s) for u, s in truth["clean"]["test"].items()}
    del full[others[0]]
    assert counts == {**full, first: 8, others[-1]: 10}


def test_the_corpus_that_is_not_there(recipes, tmp_path):
    recipes.add("somos")
    options = ("local/data.sh", "--download", "false")
    result = recipes.run("somos", *options, code=1, SOMOS="downloads")
    assert "SOMOS of db.sh is empty" in result.stderr and "7378801" in result.stderr
    result = recipes.run("somos", *options, code=1, SOMOS=tmp_path)
    assert "training_files/split1/clean is not there" in result.stderr


def test_the_download_is_unpacked_once(recipes, tone, tmp_path):
    """With a somos.zip in place, as download.sh leaves it; no network."""

    recipe = recipes.add("somos")
    fabricate(tmp_path / "somos", tone)
    downloads = recipe / "downloads"
    downloads.mkdir()
    source = tmp_path / "somos"
    shutil.make_archive(source / "audios", "zip", source, "audios")
    shutil.rmtree(source / "audios")
    shutil.make_archive(downloads / "somos", "zip", source)
    options = ("local/data.sh", "--skip_bad", "true")
    recipes.run("somos", *options)
    assert len(recipes.scores("somos", "data/train")) == 9
    assert not (downloads / "somos.zip").exists()
    recipes.run("somos", *options)
    assert len(recipes.scores("somos", "data/test_full")) == 6
