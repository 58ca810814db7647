# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import scipy.stats

from espnet2_distilmos.bin.split_dev import get_parser, main
from espnet2_distilmos.evaluation.conformal import split_dev


def call(tmp_path, ids, share, sources=None):
    (tmp_path / "ids").write_text("".join(f"{i} 4000\n" for i in ids))
    command = ["--ids", tmp_path / "ids", "--share", share, "--output", tmp_path / "c"]
    if sources is not None:
        lines = "".join(f"{i} {s}\n" for i, s in sources.items())
        (tmp_path / "utt2src").write_text(lines)
        command += ["--utt2src", tmp_path / "utt2src"]
    code = main([str(word) for word in command])
    return code, (tmp_path / "c").read_text().split() if code == 0 else None


def test_the_part_follows_from_the_id(tmp_path):
    ids = [f"utt{k}" for k in range(400)]
    code, chosen = call(tmp_path, ids, 0.3)
    assert code == 0 and chosen == split_dev(ids, calibration_share=0.3)[1]
    low, high = scipy.stats.binom(400, 0.3).interval(0.999)
    assert low <= len(chosen) <= high
    # of another list, in another order, the same
    _, fewer = call(tmp_path, ids[:100:-3], 0.3)
    assert fewer == [i for i in ids[:100:-3] if i in set(chosen)]


def test_no_source_is_in_both_parts(tmp_path):
    ids = [f"utt{k}" for k in range(120)]
    sources = {i: f"s{k % 20}" for k, i in enumerate(ids[:-2])}
    _, chosen = call(tmp_path, ids, 0.4, sources)
    rest = set(ids) - set(chosen)
    ours = {sources.get(i, i) for i in chosen}
    assert ours and rest and not ours & {sources.get(i, i) for i in rest}


def test_an_empty_part_is_refused(tmp_path, capsys):
    code, _ = call(tmp_path, ["utt0"], 0.3)
    assert code == 1
    assert "ids: 1 utterances leave one part of the dev set" in capsys.readouterr().err
    assert call(tmp_path, ["utt0", "utt1"], 1.5)[0] == 1
    assert "expected one between 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    assert get_parser().description
