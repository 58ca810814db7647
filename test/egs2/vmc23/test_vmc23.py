# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe vmc23 on a fabricated VoiceMOS Challenge 2023."""

import json

import pytest

# Names as the owner gives them: set, system, source; None is left out by the challenge.
NAMES = {
    "VoiceMOS2023Track1-A-AD_test_0026": ("track1b", "A-AD", "test_0026"),
    "VoiceMOS2023Track1-BF-NEB_test_0255": ("track1a", "BF-NEB", "test_0255"),
    "VoiceMOS2023Track1-BF-NEB_test_0680": ("track1a", "BF-NEB", "test_0680"),
    "VoiceMOS2023Track2-B01-SF1-CDF1-30001": ("track2", "B01", "SF1-30001"),
    "VoiceMOS2023Track2-TAR-IDF1-IDF1-30003": ("track2", "TAR", "IDF1-30003"),
    "VoiceMOS2023Track3-Noisy_snr5_white_TMHINT_g4_32_03": (
        *("track3", "Noisy_snr5_white", "g4_32_03"),
    ),
    "VoiceMOS2023Track3-CMGAN_snr-2_babble_TMHINT_b2_21_02": (
        *("track3", "CMGAN_snr-2_babble", "b2_21_02"),
    ),
    "VoiceMOS2023Track3-clean_TMHINT_b1_01_03": ("track3", "clean", "b1_01_03"),
    "VoiceMOS2023Track3-TMHINT_b1_02_02": None,
}


def fabricate(folder, tone, answers="answers"):
    """Write audio and answers; return {name: mos}."""
    truth, lines = {}, {"track1": [], "track2": [], "track3": []}
    for n, name in enumerate(NAMES):
        track = name[: len("VoiceMOS2023Track1")][-6:].lower()
        truth[name] = 1 + (n * 11 % 29) / 7
        lines[track].append(f"{name},{truth[name]!r}")
        tone(folder / track / f"{name}.wav", hertz=100 + 20 * n)
    for track in lines:
        path = folder / answers.format(track) / f"{track}_answer.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines[track]) + "\n")
    return truth


@pytest.mark.parametrize("answers", ["answers", "", "{}"])
def test_the_name_says_all(recipes, tone, tmp_path, answers):
    recipes.add("vmc23")
    truth = fabricate(tmp_path, tone, answers)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("vmc23", *options, VMC23=tmp_path)
    for name in ("track1a", "track1b", "track2", "track3"):
        mine = {u: n for u, n in NAMES.items() if n is not None and n[0] == name}
        assert recipes.scores("vmc23", f"data/{name}") == {u: truth[u] for u in mine}
        systems = recipes.table("vmc23", f"data/{name}/utt2sys")
        assert systems == {u: n[1] for u, n in mine.items()}
        sources = recipes.table("vmc23", f"data/{name}/utt2src")
        assert sources == {u: n[2] for u, n in mine.items()}
    for number, published in ((2, 882), (1, 578), (2, 4040), (3, 1960)):
        assert f"have {number} clips, expected the {published}" in result.stderr


def test_votes_of_track_2(recipes, tone, tmp_path):
    recipes.add("vmc23")
    fabricate(tmp_path, tone)
    names = [name for name in NAMES if "Track2" in name]
    answers = tmp_path / "answers"
    (answers / "track2_answer.txt").write_text(f"{names[0]},2.5\n{names[1]},4.5\n")
    rows = ["sample_id,listener_name,score"]
    rows += [f"{names[0]},21eKjJbGKOBq,2", f"{names[0]},9a18RdJp4V2w,3"]
    rows += [f"{names[1]},21eKjJbGKOBq,4", "VoiceMOS2023Track2-B01-SF1-X-1,z,1"]
    (answers / "listener_wise_answer.csv").write_text("\n".join(rows) + "\n")
    options = ("local/data.sh", "--skip_bad", "true", "--sets", "track2")
    result = recipes.run("vmc23", *options, VMC23=tmp_path)
    votes = recipes.table("vmc23", "data/track2/votes.scp")
    assert json.loads(votes[names[0]]) == [["21eKjJbGKOBq", 2], ["9a18RdJp4V2w", 3]]
    assert f"clip {names[1]} has the published mean 4.5, but 1 votes" in result.stderr


def test_what_is_missing(recipes, tone, tmp_path):
    recipes.add("vmc23")
    fabricate(tmp_path, tone)
    (tmp_path / "answers" / "track1_answer.txt").unlink()
    path = tmp_path / "answers" / "track3_answer.txt"
    path.write_text(path.read_text() + "VoiceMOS2023Track3-other_b2_21_02,3.0\n")
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("vmc23", *options, VMC23=tmp_path)
    assert f"track1a: {tmp_path} has no track1_answer.txt" in result.stderr
    assert f"{path}:5: 'VoiceMOS2023Track3-other_b2_21_02' is no name of a clip" in (
        result.stderr
    )
    assert len(recipes.scores("vmc23", "data/track3")) == 3


@pytest.mark.parametrize("place", ["", "wavs"])
@pytest.mark.parametrize(
    "corpus, track, sets",
    [("bc23", "Track1", ("track1a", "track1b")), ("svcc23", "Track2", ("track2",))],
)
def test_one_track_alone(recipes, tone, tmp_path, corpus, track, sets, place):
    recipes.add("vmc23")  # its parser is used
    recipes.add(corpus)
    names = [name for name in NAMES if track in name]
    lines = []
    for n, name in enumerate(names):
        tone(tmp_path / place / f"{name}.wav", hertz=100 + 20 * n)
        lines.append(f"{name},{2 + n / 2}")
    (tmp_path / "answer.csv").write_text("\n".join(lines) + "\n")
    options = ("local/data.sh", "--skip_bad", "true")
    recipes.run(corpus, *options, **{corpus.upper(): tmp_path})
    found = {}
    for name in sets:
        found.update(recipes.scores(corpus, f"data/{name}"))
    assert found == {name: 2 + n / 2 for n, name in enumerate(names)}
    data = recipes.root / "egs2" / corpus / "mos1" / "data"
    assert {path.name for path in data.iterdir()} == set(sets)
