# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

from espnet2_distilmos.bin.split_dev import main
from espnet2_distilmos.evaluation.trust import split_dev


def test_ids_and_sources_are_split_as_the_library_does(tmp_path, capsys):
    ids = [f"utt{k}" for k in range(120)]
    sources = {utt_id: f"s{k % 20}" for k, utt_id in enumerate(ids[:-2])}
    (tmp_path / "ids").write_text("".join(f"{i} 4000\n" for i in ids))
    (tmp_path / "utt2src").write_text("".join(f"{i} {s}\n" for i, s in sources.items()))
    command = ["--ids", str(tmp_path / "ids"), "--output", str(tmp_path / "new" / "c")]
    assert main([*command, "--share", "0.3"]) == 0
    chosen = (tmp_path / "new" / "c").read_text().split()
    assert chosen == split_dev(ids, calibration_share=0.3)[1]
    command += ["--utt2src", str(tmp_path / "utt2src")]
    assert main([*command, "--share", "0.4"]) == 0
    chosen = (tmp_path / "new" / "c").read_text().split()
    clusters = [sources.get(utt_id, utt_id) for utt_id in ids]
    assert chosen == split_dev(ids, clusters, 0.4)[1]
    assert main([*command, "--share", "1.5"]) == 1
    assert "ids: the share is 1.5" in capsys.readouterr().err
