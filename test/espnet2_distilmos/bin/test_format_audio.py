# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin.format_audio import main
from espnet2_distilmos.data.datadir import read_scp


def tone(seconds, rate, hertz=440.0):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def run(tmp_path, paths, *options):
    """Format ``paths`` by id; return the exit code and the output directory."""
    wav_scp = tmp_path / "wav.scp"
    wav_scp.write_text("".join(f"{key} {path}\n" for key, path in paths.items()))
    out = tmp_path / "out"
    code = main(["--wav_scp", str(wav_scp), "--output_dir", str(out), *options])
    return code, out


@pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 2), (44100, 2)])
def test_every_rate_and_channel_count_becomes_16k_mono(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    # The channels differ, so that taking one of them is not the mean.
    scales = np.array([1.0, 0.5])[:channels]
    soundfile.write(path, tone(0.5, rate)[:, None] * scales, rate, subtype="FLOAT")
    code, out = run(tmp_path, {"u": path})
    assert code == 0
    written, fs = soundfile.read(read_scp(str(out / "wav.scp"))["u"])
    assert fs == 16000 and written.ndim == 1
    assert len(written) == 8000
    assert read_scp(str(out / "utt2num_samples")) == {"u": "8000"}
    info = soundfile.info(read_scp(str(out / "wav.scp"))["u"])
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")
    expected = tone(0.5, 16000) * scales.mean()
    inner = slice(1600, -1600)  # the resampler's edges are not those of the sine
    np.testing.assert_allclose(written[inner], expected[inner], atol=2e-3)


def test_bad_audio_gets_a_sentence_each_and_the_good_is_written(tmp_path):
    good = tone(0.5, 16000)
    nan = good.copy()
    nan[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", good[:800], 16000)
    soundfile.write(tmp_path / "good.wav", good, 16000)
    bad = {
        "missing": (tmp_path / "missing.wav", "does not exist"),
        "nan": (tmp_path / "nan.wav", "samples that are NaN"),
        "short": (tmp_path / "short.wav", "is 0.050 s long, expected at least 0.1 s"),
        "failing": ("false |", "the command 'false' in wav.scp ended with code 1"),
        "nothing": ("true |", "the output of 'true' is empty"),
        "pathless": ("", "has no path"),
    }
    paths = {key: path for key, (path, _) in bad.items()}
    command = f"cat {tmp_path}/good.wav |"
    paths = {"good1": tmp_path / "good.wav", **paths, "good2": command}
    code, out = run(tmp_path, paths)
    assert code == 1
    assert list(read_scp(str(out / "wav.scp"))) == ["good1", "good2"]
    assert read_scp(str(out / "utt2num_samples")) == {"good1": "8000", "good2": "8000"}
    sentences = (out / "errors.txt").read_text().splitlines()
    assert len(sentences) == len(bad)
    for key, (_, words) in bad.items():
        (sentence,) = [s for s in sentences if s.startswith(f"utterance {key}:")]
        assert words in sentence
    assert run(tmp_path, paths, "--bad_exit_code", "0")[0] == 0


def test_segments_cut_the_recordings(tmp_path):
    samples = tone(1.0, 16000)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    good = {
        "0.1 0.6": slice(1600, 9600),
        "0.5 -1": slice(8000, None),
        "0.25 1": slice(4000, None),
        "0.25 1.0001": slice(4000, None),
        "0.75 1.5": slice(12000, None),  # Kaldi shortens it
    }
    bad = {
        "0.8 0.2": "expected 'recording start end'",
        "nan 1": "expected 'recording start end'",
        "0 inf": "expected 'recording start end'",
        "0": "expected 'recording start end'",
        "0 1.51": "is 1.00 s long, expected one that ends at most 0.5 s after it",
        "0 10": "is 1.00 s long, expected",
        "1.2 1.4": "is 1.00 s long, expected",
        "2 -1": "is 1.00 s long, expected",
        "1e300 2e300": "is 1.00 s long, expected",
    }
    segments = tmp_path / "segments"
    lines = [f"good{i} long {times}\n" for i, times in enumerate(good)]
    lines += [f"bad{i} long {times}\n" for i, times in enumerate(bad)]
    lines += ["other nowhere 0 1\n", "nothing\n"]
    segments.write_text("".join(lines[::-1]))
    code, out = run(
        tmp_path, {"long": tmp_path / "long.wav"}, "--segments", str(segments)
    )
    assert code == 1
    written = {k: soundfile.read(p)[0] for k, p in read_scp(f"{out}/wav.scp").items()}
    assert len(written) == len(good)
    for i, part in enumerate(good.values()):
        np.testing.assert_allclose(written[f"good{i}"], samples[part], atol=1e-4)
    errors = (out / "errors.txt").read_text().splitlines()
    assert len(errors) == len(bad) + 2
    for i, words in enumerate(bad.values()):
        (sentence,) = [e for e in errors if e.startswith(f"utterance bad{i}: ")]
        assert words in sentence


def test_a_repeat_keeps_files_and_a_change_makes_them_again(tmp_path, capsys):
    paths = {}
    for key in "ab":
        paths[key] = tmp_path / f"{key}.wav"
        soundfile.write(paths[key], tone(0.5, 16000), 16000)
    _, out = run(tmp_path, paths)
    before = os.stat(out / "data" / "a.flac").st_mtime_ns
    soundfile.write(paths["b"], tone(0.25, 16000), 16000)
    capsys.readouterr()
    run(tmp_path, paths)
    assert "1 files written" in capsys.readouterr().err
    assert os.stat(out / "data" / "a.flac").st_mtime_ns == before
    assert read_scp(str(out / "utt2num_samples")) == {"a": "8000", "b": "4000"}
    # Another rate is another file as well.
    run(tmp_path, paths, "--fs", "8000")
    assert read_scp(str(out / "utt2num_samples")) == {"a": "4000", "b": "2000"}
    # A file that a killed run cut off is made again.
    (out / "data" / "a.flac").write_bytes(b"")
    assert run(tmp_path, paths, "--fs", "8000")[0] == 0
    assert soundfile.info(out / "data" / "a.flac").frames == 4000


def test_any_id_has_a_file_of_its_own(tmp_path):
    ids = ["s/a", "s%2Fa", "..", ".", "../b", "/b", "x\0y", "é日", "y" * 300]
    seconds = {key: 0.2 + 0.1 * number for number, key in enumerate(ids)}
    paths = {}
    for key, length in seconds.items():
        paths[key] = tmp_path / f"{length:.1f}.wav"
        soundfile.write(paths[key], tone(length, 16000), 16000)
    paths["null"] = f"{tmp_path}/0.2\0.wav"
    paths["command"] = "echo \0 |"
    code, out = run(tmp_path, paths)
    assert code == 1
    found = read_scp(str(out / "utt2num_samples"))
    assert found == {key: str(round(16000 * seconds[key])) for key in sorted(ids)}
    for key, path in read_scp(str(out / "wav.scp")).items():
        assert os.path.dirname(os.path.abspath(path)) == str(out / "data")
        assert soundfile.info(path).frames == int(found[key])
    assert len(list((out / "data").glob("*.flac"))) == len(ids)
    errors = (out / "errors.txt").read_text().splitlines()
    assert [error.split(":")[0] for error in errors] == [
        "utterance command",
        "utterance null",
    ]


def test_what_ends_the_run_is_named(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    # A file in the way stops root too, whom permissions do not stop.
    (tmp_path / "out").write_text("")
    assert run(tmp_path, {"u": tmp_path / "a.wav"})[0] == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error and "out" in error
    (tmp_path / "out").unlink()
    # so is a list that has an id twice
    (tmp_path / "twice.scp").write_text("a x.wav\na y.wav\n")
    command = ["--wav_scp", str(tmp_path / "twice.scp"), "--output_dir", str(tmp_path)]
    assert main(command) == 1
    assert "twice.scp:2: the id a" in capsys.readouterr().err
