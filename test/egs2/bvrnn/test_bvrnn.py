# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe bvrnn on a fabricated mushra_results_dataset, and on an extract."""

import json

CODECS = ("Proposed 1.38", "Proposed 1.38 16kHz", "Lyra 3", "Reference")
SIGNALS = ("VCTK_p229_293", "TSP_FB07_09")


def fabricate(folder, tone):
    """Write the owner's table and audio; return {utt_id: {participant: rating}}."""
    rows, truth = ["signal,condition,ratings,participant_ids,file"], {}
    for s, signal in enumerate(SIGNALS, 1):
        for c, codec in enumerate(CODECS):
            file = f"stim_{s:02d}/codec_{c}.wav"
            tone(folder / "audio" / file, 0.2, 48000, 100 * s + 10 * c)
            votes = {p: 10.0 * ((p + c) % 11) for p in (2, 3, 5, 8)}
            truth[f"bvrnn_stim_{s:02d}_codec_{c}"] = votes
            lists = f'"{list(votes.values())}","{list(votes)}"'
            rows.append(f"{signal},{codec},{lists},{file}")
        rows.append(f'{signal},Anchor,"[3.0, 4.0]","[2, 3]",')
    (folder / "ratings_formated_filtered.csv").write_text("\n".join(rows) + "\n")
    return truth


def test_ratings_and_participants(recipes, tone, tmp_path):
    recipes.add("bvrnn")
    truth = fabricate(tmp_path / "mushra", tone)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("bvrnn", *options, BVRNN=tmp_path / "mushra")
    assert (
        "the lists have 8 clips, expected the 128 that were published" in result.stderr
    )
    expected = {u: sum(v.values()) / len(v) for u, v in truth.items()}
    assert recipes.scores("bvrnn", "data/test") == expected
    votes = recipes.table("bvrnn", "data/test/votes.scp")
    assert {u: dict(json.loads(v)) for u, v in votes.items()} == {
        u: {f"participant{p}": rating for p, rating in v.items()}
        for u, v in truth.items()
    }
    systems = recipes.table("bvrnn", "data/test/utt2sys")
    assert set(systems.values()) == {codec.replace(" ", "_") for codec in CODECS}
    speakers = recipes.table("bvrnn", "data/test/utt2spk")
    assert set(speakers.values()) == {"VCTK_p229", "TSP_FB07"}
    sources = recipes.table("bvrnn", "data/test/utt2src")
    assert set(sources.values()) == set(SIGNALS)
    folder = recipes.root / "egs2" / "bvrnn" / "mos1" / "data" / "test"
    assert (folder / "score_range").read_text() == "0 100\n"


def test_rows_that_cannot_be_used(recipes, tone, tmp_path):
    recipes.add("bvrnn")
    truth = fabricate(tmp_path, tone)
    path = tmp_path / "ratings_formated_filtered.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("[2, 3, 5, 8]", "[2, 3, 5]")
    lines[2] = lines[2].replace("[10", "10", 1).replace("[30", "x30", 1)
    lines[3] = lines[3].replace("[40.0", "[101.0")
    path.write_text("\n".join([*lines, lines[4]]) + "\n")
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("bvrnn", *options, BVRNN=tmp_path)
    for number in (2, 3):
        assert f"{path}:{number}: clip bvrnn_stim_01" in result.stderr
    assert result.stderr.count("expected two lists of the same length") == 2
    assert "has the score 101.0, expected a number from 0 to 100" in result.stderr
    scores = recipes.scores("bvrnn", "data/test")
    assert set(scores) == set(sorted(truth)[2:])


def test_an_extract(recipes, tone, tmp_path):
    recipes.add("bvrnn")
    lines = ["utt,wav,system,mos,n_votes,votes"]
    for n in range(3):
        utt_id = f"bvrnn_stim_{n + 1:02d}_lyra_6"
        tone(tmp_path / "flac" / f"{utt_id}.flac")
        lines.append(f"{utt_id},flac/{utt_id}.flac,Lyra 6,{20.5 + n},2,20.0 21.0")
    (tmp_path / "ratings.csv").write_text("\n".join(lines) + "\n")
    options = ("local/data.sh", "--skip_bad", "true")
    recipes.run("bvrnn", *options, BVRNN=tmp_path)
    assert list(recipes.scores("bvrnn", "data/test").values()) == [20.5, 21.5, 22.5]
    sources = recipes.table("bvrnn", "data/test/utt2src")
    assert set(sources.values()) == {"stim_01", "stim_02", "stim_03"}
