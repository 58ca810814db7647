# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
from pathlib import Path

import yaml

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_losses.py"
spec = importlib.util.spec_from_file_location("benchmark_losses", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_a_row_for_each_configuration(mos_corpus, tmp_path, capsys):
    masked = mos_corpus.config(
        losses={"mos_l1": {}, "masked_token_ce": {}, "masked_ema": {}},
        noisy_view={"noise_prob": 1.0},
    )
    paths = [str(tmp_path / name) for name in ("plain.yaml", "masked.yaml")]
    for path, config in zip(paths, (mos_corpus.config(), masked)):
        Path(path).write_text(yaml.safe_dump(config))
    sizes = ["--batch_size", "2", "--seconds", "0.3", "--clusters", "4"]
    assert tool.main([*paths, *sizes, "--steps", "1"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == paths
    assert float(rows[0][3]) == 1.0 and float(rows[0][2]) == 0.0

    # A step is clean pass, masked pass, and the pass of the moving average, which
    # is a copy of the frontend with its hook.
    training = tool.Training(masked, 4)
    passes = []
    training.model.frontend.register_forward_hook(lambda *_: passes.append(1))
    step, view = training.step(2, 0.3, 0)
    assert len(passes) == 3 and 0 < view < step
    assert training.model.ema_targets()[0].updates == 1
