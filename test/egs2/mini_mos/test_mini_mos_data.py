# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Tests of the embedded default data of ``egs2/mini_mos/mos1``."""

import importlib
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from espnet2_distilmos.data.datadir import (
    read_metric_scp,
    read_scp,
    write_metric_scp,
    write_scp,
)
from espnet2_distilmos.distortion import systems

RECIPE = Path(__file__).resolve().parents[3] / "egs2" / "mini_mos" / "mos1"
CORPUS = RECIPE / "corpus"
NAMES = ("baseline_ridge", "compute_labels", "corpus", "prepare_data")


def load_local():
    """Import the recipe's local modules by path, without leaving them behind."""
    sys.path.insert(0, str(RECIPE / "local"))
    try:
        return {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(RECIPE / "local"))
        for name in NAMES:
            sys.modules.pop(name, None)


LOCAL = load_local()
corpus, prepare_data = LOCAL["corpus"], LOCAL["prepare_data"]


@pytest.fixture(scope="module")
def clips():
    return corpus.read_labels(CORPUS)


def test_labels_fit_the_corpus(clips):
    assert len({clip.utterance for clip in clips}) == len(clips)
    files = {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*.opus")}
    assert files == {clip.source for clip in clips}
    for clip in clips:
        assert clip.utterance == f"{clip.voice}_{clip.sentence}_{clip.system}"
        assert clip.source == f"clean/{clip.dataset}/{clip.voice}_{clip.sentence}.opus"
        assert 1.0 <= clip.mos_lqo <= 4.65
    rows = (CORPUS / "sentences.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [row.split("\t") for row in rows]
    assert len({text for _, _, text in rows}) == len(rows)
    expected = {(dataset, sentence) for dataset, sentence, _ in rows}
    assert {(clip.dataset, clip.sentence) for clip in clips} == expected


def test_sets_are_apart_and_systems_balanced(clips):
    for field in ("voice", "sentence"):
        values = defaultdict(set)
        for clip in clips:
            values[clip.dataset].add(getattr(clip, field))
        assert sum(map(len, values.values())) == len(set().union(*values.values()))
    sizes = {"train": 456, "dev": 192, "test": 360, "ood": 672}
    for dataset, size in sizes.items():
        registry = systems.OUT_OF_DOMAIN if dataset == "ood" else systems.IN_DOMAIN
        counts = Counter(clip.system for clip in clips if clip.dataset == dataset)
        assert counts == dict.fromkeys(registry, size // 24)
    assert not set(systems.IN_DOMAIN) & set(systems.OUT_OF_DOMAIN)


def test_labels_span_the_scale_and_the_corpus_is_small(clips):
    for dataset in corpus.DATA_DIRS:
        by_system = defaultdict(list)
        for clip in clips:
            if clip.dataset == dataset:
                by_system[clip.system].append(clip.mos_lqo)
        means = [np.mean(values) for values in by_system.values()]
        assert min(means) < 1.4 and max(means) > 4.0
        # Knowing the system is not knowing the clip.
        assert np.mean([np.std(values) for values in by_system.values()]) > 0.15
    size = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    assert size < 6e6
    seconds = [
        sf.info(CORPUS / source).duration for source in {c.source for c in clips}
    ]
    assert 1.2 < min(seconds) and max(seconds) < 3.2


def test_fresh_labels_agree(clips):
    pytest.importorskip("pesq")
    label = LOCAL["compute_labels"].label
    for clip in clips[:: len(clips) // 12]:
        assert label(clip, CORPUS).mos_lqo == pytest.approx(clip.mos_lqo, abs=0.05)


def small_corpus(folder, clips):
    folder.mkdir()
    (folder / "clean").symlink_to(CORPUS / "clean")
    picked = [next(c for c in clips if c.dataset == name) for name in corpus.DATA_DIRS]
    corpus.write_labels(folder, picked + [c for c in clips if c.dataset == "dev"][1:4])
    return folder


def test_prepare_data(clips, tmp_path, monkeypatch):
    # Its processes import the modules by name.
    monkeypatch.syspath_prepend(str(RECIPE / "local"))
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, LOCAL[name])
    folder = small_corpus(tmp_path / "corpus", clips)
    audio, out = tmp_path / "audio", tmp_path / "data"
    arguments = ["--corpus", str(folder), "--audio_dir", str(audio)]
    arguments += ["--out", str(out), "--nj", "1"]
    assert prepare_data.main(arguments) == 0

    for name, count in (("train", 1), ("dev", 4), ("test", 1), ("test_ood", 1)):
        tables = {
            table: read_scp(out / name / table)
            for table in ("wav.scp", "utt2spk", "utt2sys", "utt2src", "metric.scp")
        }
        assert all(len(table) == count for table in tables.values())
        assert len({tuple(table) for table in tables.values()}) == 1
    wavs = read_scp(out / "dev" / "wav.scp")
    labels = {clip.utterance: clip for clip in clips}
    for utterance, score in read_metric_scp(out / "dev" / "metric.scp").items():
        assert score == labels[utterance].mos_lqo
        written, rate = sf.read(wavs[utterance], dtype="int16")
        clean = corpus.read_clean(CORPUS, labels[utterance].source)
        expected = systems.render(clean, labels[utterance].system, utterance)
        assert rate == 16000
        np.testing.assert_array_equal(written, expected)

    # A second run renders only what is missing, and what another version left.
    kept, lost = sorted(wavs.values())[:2]
    os.utime(kept, (1, 1))
    os.remove(lost)
    assert prepare_data.main(arguments) == 0
    assert os.path.getmtime(kept) == 1 and os.path.exists(lost)
    (audio / prepare_data.STAMP).write_text("another version\n")
    assert prepare_data.main(arguments) == 0
    assert os.path.getmtime(kept) != 1


def test_prepare_data_names_a_damaged_label(clips, tmp_path, capsys):
    folder = small_corpus(tmp_path / "corpus", clips)
    with open(folder / "labels.tsv", "a") as f:
        f.write("dev\tutt\tclean\tvoice\ts1\tclean/x.opus\tgood\n")
    assert prepare_data.main(["--corpus", str(folder), "--out", str(tmp_path)]) == 1
    assert "labels.tsv, line 9: expected 7 columns" in capsys.readouterr().err


def test_ridge_baseline_finds_a_level(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 10)):
        wavs, labels = {}, {}
        for index in range(count):
            level = rng.uniform(-40, -20)
            wavs[f"u{index}"] = tmp_path / f"{name}{index}.wav"
            noise = rng.standard_normal(16000) * 10 ** (level / 20)
            sf.write(wavs[f"u{index}"], noise, 16000)
            labels[f"u{index}"] = None if index == 3 else 5 + level / 10
        write_scp(tmp_path / name / "wav.scp", wavs)
        write_metric_scp(tmp_path / name / "metric.scp", labels)
    arguments = ["--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]
    LOCAL["baseline_ridge"].main([*arguments, "--out", str(tmp_path / "exp")])
    found = read_metric_scp(tmp_path / "exp" / "test" / "metric.scp")
    for utterance, score in read_metric_scp(tmp_path / "test" / "metric.scp").items():
        assert score is None or found[utterance] == pytest.approx(score, abs=0.1)
