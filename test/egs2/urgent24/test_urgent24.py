# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe urgent24 with a package that stands in for the hub's."""

import importlib.util

import soundfile

# What local/download.py uses of the package datasets.
DATASETS = """
import math

def load_dataset(name, split):
    assert (name, split) == ("urgent-challenge/urgent2024_mos", "test")
    for n, system in enumerate(("noisy", "P426", "P17")):
        for fileid in (3, 184):
            rate = (16000, 22050, 48000)[n]
            wave = [0.1 * math.sin(t * (n + 1) / 9) for t in range(rate // 5 + fileid)]
            ratings = [1 + (n + k + fileid) % 5 for k in range(8)]
            yield {
                "id": f"{system}-fileid_{fileid}",
                "audio": {"array": wave, "sampling_rate": rate},
                "sampling_rate": rate,
                "mos": sum(ratings) / 8,
                "raw_ratings": ratings,
            }
"""


def expected(path):
    """Return the clips that the stand-in gives, by id."""
    spec = importlib.util.spec_from_file_location("stand_in", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clips = module.load_dataset("urgent-challenge/urgent2024_mos", "test")
    return {clip["id"]: clip for clip in clips}


def test_what_is_downloaded_becomes_a_test_set(recipes, tmp_path):
    recipe = recipes.add("urgent24")
    (tmp_path / "datasets.py").write_text(DATASETS)
    path = f"{tmp_path}:{recipes.repository}"
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("urgent24", *options, PYTHONPATH=path)
    assert "test: the lists have 6 clips, expected the 6900" in result.stderr
    truth = expected(tmp_path / "datasets.py")
    scores = recipes.scores("urgent24", "data/test")
    assert scores == {u: clip["mos"] for u, clip in truth.items()}
    assert set(recipes.table("urgent24", "data/test/utt2sys").values()) == {
        *("noisy", "P426", "P17")
    }
    assert set(recipes.table("urgent24", "data/test/utt2src").values()) == {
        *("fileid_3", "fileid_184")
    }
    for utt_id, wav in recipes.table("urgent24", "data/test/wav.scp").items():
        info = soundfile.info(wav)
        assert info.samplerate == truth[utt_id]["sampling_rate"]
        assert info.frames == len(truth[utt_id]["audio"]["array"])
    assert not (recipe / "data" / "test" / "votes.scp").exists()
    # Without the package, once the audio is there.
    (tmp_path / "datasets.py").unlink()
    recipes.run("urgent24", *options)


def test_the_package_that_is_missing_is_named(recipes, tmp_path):
    recipes.add("urgent24")
    (tmp_path / "datasets.py").write_text("raise ImportError('not installed')\n")
    path = f"{tmp_path}:{recipes.repository}"
    result = recipes.run("urgent24", "local/data.sh", code=1, PYTHONPATH=path)
    assert 'install it with pip install "datasets<4"' in result.stderr
    (tmp_path / "datasets.py").write_text(
        "def load_dataset(*args, **kwargs):\n    raise OSError('no network')\n"
    )
    result = recipes.run("urgent24", "local/data.sh", code=1, PYTHONPATH=path)
    assert "could not be downloaded (no network)" in result.stderr


def test_oddities(recipes, tone, tmp_path):
    recipes.add("urgent24")
    rows = ["wav_path,system_id,sample_id,sampling_rate,score,raw_ratings"]
    for name, rest in (
        ("P1-fileid_1", '2.5,"[2, 3]"'),
        ("P1-fileid_2", '4.0,"[2, 3]"'),
        ("P1-fileid_3", '2.0,"[2"'),
        ("P2-fileid_1", "3.25,"),
        ("P2-fileid_1", "3.25,"),
    ):
        tone(tmp_path / "wavs" / f"{name}.wav", hertz=len(rows) * 100)
        rows.append(f"wavs/{name}.wav,{name},{name},16000,{rest}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("urgent24", *options, URGENT24=tmp_path)
    path = tmp_path / "metadata.csv"
    assert "clip P1-fileid_2 has the published mean 4, but 2 votes" in result.stderr
    assert f"{path}:4: clip P1-fileid_3 has the score '2.0' and" in result.stderr
    assert f"{path}:6: clip P2-fileid_1 has the score" in result.stderr
    scores = recipes.scores("urgent24", "data/test")
    assert scores == {"P1-fileid_1": 2.5, "P1-fileid_2": 2.5, "P2-fileid_1": 3.25}
