#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score clips with the released Distill-MOS (package distillmos), as it comes.

The peer that a user would take instead of training: 4 M parameters, trained on far more
listening tests than this recipe has. Predictions are written as ``metric.scp``.
"""

import argparse
import os
import sys
from typing import Dict, Optional, Sequence

import torch

from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.datadir import DataError, read_scp, write_metric_scp


def score_set(wav_scp: str, model: torch.nn.Module) -> Dict[str, float]:
    """Score every clip alone; the package wants 16 kHz mono (1, N)."""
    scores = {}
    for utt_id, path in read_scp(wav_scp).items():
        speech = torch.from_numpy(read_audio(path, utt_id=utt_id))[None]
        with torch.no_grad():
            scores[utt_id] = float(model(speech))
    return scores


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--test", nargs="+", required=True, help="data directories")
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    args = parser.parse_args(argv)
    try:
        import distillmos
    except ImportError as error:
        print(
            f"score_peer: the package distillmos cannot be imported ({error}), "
            "expected it for the row of the peer; install it with `pip install "
            "distillmos`.",
            file=sys.stderr,
        )
        return 1
    model = distillmos.ConvTransformerSQAModel().eval()
    try:
        for folder in args.test:
            path = os.path.join(args.out, os.path.basename(folder), "metric.scp")
            scores = score_set(f"{folder}/wav.scp", model)
            write_metric_scp(path, scores, decimals=6)
            print(f"{path}: {len(scores)} predictions", file=sys.stderr)
    except (AudioError, DataError, OSError) as error:
        print(f"score_peer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
