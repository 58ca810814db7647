# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe singmos on a fabricated track 2 of the VoiceMOS Challenge 2024."""

import pytest

SETS = {"train": 6, "val": 3, "eval": 4}


def fabricate(folder, tone, prefix="voicemos2024-track2-", ending=""):
    """Write lists and audio; return {set: {utt_id: mos}}."""
    truth = {}
    (folder / "sets").mkdir(parents=True)
    for number, (name, count) in enumerate(SETS.items()):
        lines, truth[name] = [], {}
        for n in range(count):
            short = f"sys{n % 3:04d}-utt{number}{n:03d}"
            utt_id = f"voicemos2024-track2-{short}"
            truth[name][utt_id] = 1 + (n * 7 % 17) / 4
            lines.append(f"{prefix}{short}{ending},{truth[name][utt_id]:.6f}")
            tone(folder / "wav" / f"{utt_id}.wav", hertz=100 * number + 20 * n + 50)
        (folder / "sets" / f"{name}_mos_list.txt").write_text("\n".join(lines) + "\n")
    return truth


@pytest.mark.parametrize(
    "inner, prefix, ending", [("DATA", "voicemos2024-track2-", ""), ("", "", ".wav")]
)
def test_lists_become_sets(recipes, tone, tmp_path, inner, prefix, ending):
    recipes.add("singmos")
    truth = fabricate(tmp_path / "singmos" / inner, tone, prefix, ending)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("singmos", *options, SINGMOS=tmp_path / "singmos")
    for name, data in (("train", "train"), ("val", "dev"), ("eval", "test")):
        assert recipes.scores("singmos", f"data/{data}") == truth[name]
        systems = recipes.table("singmos", f"data/{data}/utt2sys")
        assert systems == {u: u.split("-")[2] for u in truth[name]}
    faults = [s for s in result.stderr.splitlines() if "expected" in s]
    assert len(faults) == 3 and "test: the lists have 4 clips, expected the 645" in (
        faults[2]
    )


def test_a_phase_that_is_missing(recipes, tone, tmp_path):
    recipes.add("singmos")
    fabricate(tmp_path, tone)
    (tmp_path / "sets" / "eval_mos_list.txt").unlink()
    result = recipes.run("singmos", "local/data.sh", code=1, SINGMOS=tmp_path)
    assert "eval_mos_list.txt cannot be read" in result.stderr
    options = ("local/data.sh", "--sets", "train dev", "--skip_bad", "true")
    recipes.run("singmos", *options, SINGMOS=tmp_path)
    assert len(recipes.scores("singmos", "data/dev")) == 3
