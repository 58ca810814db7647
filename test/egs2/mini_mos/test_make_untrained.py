# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The untrained model that mini_mos compares with."""

import importlib.util
from pathlib import Path

import torch
import yaml
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet2_distilmos.mos.build import build_model

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "egs2" / "mini_mos" / "mos1" / "local" / "make_untrained.py"
spec = importlib.util.spec_from_file_location("make_untrained", SCRIPT)
make_untrained = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_untrained)


def weights(config, seed):
    set_all_random_seed(seed)
    return build_model(config, load_pretrained=True).state_dict()


def test_the_weights_are_those_that_the_training_starts_from(
    tmp_path, scorer_dir, capsys
):
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    config["frontend_conf"] = {
        "init_seed": 1,
        "upstream_config": config["frontend_conf"]["upstream_config"],
    }
    config.update(seed=3, token_info=None)
    old, out = tmp_path / "old", tmp_path / "untrained.pth"
    old.mkdir()
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    assert make_untrained.main([str(old), str(out)]) == 0
    states, expected = torch.load(out, weights_only=True), weights(config, 3)
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[key], expected[key]) for key in states)
    other = weights(config, 4)
    assert any(not torch.equal(states[key], other[key]) for key in states)

    # A model that was fine-tuned started from a trained one.
    torch.save(other, old / "model.pth")
    new = tmp_path / "new"
    new.mkdir()
    (new / "config.yaml").write_text(yaml.safe_dump({**config, "init_model": str(old)}))
    assert make_untrained.main([str(new), str(out)]) == 0
    states = torch.load(out, weights_only=True)
    assert all(torch.equal(states[key], other[key]) for key in other)

    assert make_untrained.main([str(tmp_path / "none"), str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "none/config.yaml" in line
