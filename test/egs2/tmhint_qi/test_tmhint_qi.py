# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe tmhint_qi on a fabricated TMHINTQI.zip, unpacked."""

import json

import pytest

HEADER = "idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name"
METHODS = (("FCN", "5", "white"), ("Trans", "-2", "babble"), ("clean", "", ""))


def fabricate(folder, tone, subjects=True):
    """Write audio and votes; return {set: {utt_id: [(subject, score)]}}."""
    rows, truth, number = [HEADER], {"train": {}, "test": {}}, 0
    for name, sentences in (("train", 10), ("test", 2)):
        for s in range(sentences):
            uttr = f"TMHINT_{'bg'[s % 2]}{1 + s % 4}_{20 + s}_{name}"
            for method, snr, noise in METHODS:
                utt_id = "_".join(p for p in (noise, snr, method, uttr) if p)
                tone(folder / name / f"{utt_id}.wav", hertz=100 + number)
                votes = []
                for subject in range(2 + s % 2):
                    number += 1
                    votes.append((f"subject{10 + subject}", 1 + (number * 7) % 5))
                    who = 10 + subject if subjects else number
                    score = votes[-1][1]
                    row = f"{who},{method},{uttr},{snr},{noise},{score},8,{utt_id}"
                    rows.append(row)
                # Intelligibility alone is no vote.
                rows.append(f"99,{method},{uttr},{snr},{noise},,9,{utt_id}")
                truth[name][utt_id] = votes
    (folder / "raw_data.csv").write_text("\n".join(rows) + "\n")
    return truth


@pytest.mark.parametrize("subjects", [True, False])
def test_votes_sets_and_held_out_sentences(recipes, tone, tmp_path, subjects):
    recipes.add("tmhint_qi")
    truth = fabricate(tmp_path / "TMHINTQI", tone, subjects)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("tmhint_qi", *options, TMHINT_QI=tmp_path)
    train = recipes.scores("tmhint_qi", "data/train")
    dev = recipes.scores("tmhint_qi", "data/dev")
    expected = {
        name: {u: sum(s for _, s in v) / len(v) for u, v in clips.items()}
        for name, clips in truth.items()
    }
    assert {**train, **dev} == pytest.approx(expected["train"])
    assert recipes.scores("tmhint_qi", "data/test") == pytest.approx(expected["test"])
    # A tenth, in whole sentences.
    assert len(dev) == 3 and len(train) == 27
    sources = recipes.table("tmhint_qi", "data/train/utt2src")
    held = recipes.table("tmhint_qi", "data/dev/utt2src")
    assert not set(sources.values()) & set(held.values())

    systems = recipes.table("tmhint_qi", "data/test/utt2sys")
    assert set(systems.values()) == {"FCN-SNR5-white", "Trans-SNR-2-babble", "clean"}
    folder = recipes.root / "egs2" / "tmhint_qi" / "mos1" / "data" / "test"
    if subjects:
        votes = recipes.table("tmhint_qi", "data/test/votes.scp")
        assert {u: [tuple(v) for v in json.loads(t)] for u, t in votes.items()} == (
            truth["test"]
        )
    else:  # a number for each row is nobody's name
        assert not (folder / "votes.scp").exists()
    faults = [s for s in result.stderr.splitlines() if "expected" in s]
    assert len(faults) == 2
    assert "train: the lists have 30 clips, expected the 12937" in faults[0]
    assert "test: the lists have 6 clips, expected the 1978" in faults[1]


def test_oddities(recipes, tone, tmp_path):
    recipes.add("tmhint_qi")
    truth = fabricate(tmp_path, tone)
    gone, bad = sorted(truth["test"])[:2]
    (tmp_path / "test" / f"{gone}.wav").unlink()
    path = tmp_path / "raw_data.csv"
    with open(path, "a") as file:
        file.write(f"10,FCN,TMHINT_b1_20_test,5,white,6,8,{bad}\n")
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("tmhint_qi", *options, TMHINT_QI=tmp_path)
    assert f"has 1 clips ({gone}.wav) that are neither in" in result.stderr
    assert (
        f"clip {bad} has the score '6', expected a number from 1 to 5" in result.stderr
    )
    (tmp_path / "train").rename(tmp_path / "other")
    result = recipes.run("tmhint_qi", *options, code=1, TMHINT_QI=tmp_path)
    assert f"{tmp_path}/train is not there" in result.stderr
