#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score predictions against labels: utterances and systems, as a Markdown table."""

import argparse
from pathlib import Path

from espnet2.mos.datadir import read_metric_scp, read_scp
from espnet2.mos.metrics import evaluate


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="Markdown file")
    parser.add_argument(
        "sets", nargs="+", metavar="DATA_DIR=METRIC_SCP", help="Labels, predictions"
    )
    return parser


def score(data_dir, predictions):
    """Metrics by name; a system level needs DATA_DIR/utt2sys."""
    labels = read_metric_scp(f"{data_dir}/metric.scp")
    scores = read_metric_scp(predictions)
    ids = [i for i, label in labels.items() if label is not None]
    missing = [i for i in ids if scores.get(i) is None]
    if missing:
        raise SystemExit(
            f"{predictions} has no score of {len(missing)} utterances, the first is "
            f"{missing[0]}, expected one for each label: run stage 8 again"
        )
    systems = None
    if Path(data_dir, "utt2sys").exists():
        systems = read_scp(f"{data_dir}/utt2sys")
        systems = [systems[i] for i in ids]
    return evaluate([scores[i] for i in ids], [labels[i] for i in ids], systems)


def main(cmd=None):
    args = get_parser().parse_args(cmd)
    rows = {}
    for pair in args.sets:
        data_dir, _, predictions = pair.partition("=")
        rows[Path(data_dir).name] = score(data_dir, predictions)
    found = next(iter(rows.values()))
    keys = [f"{level}_mos_{n}" for level in ("utt", "sys") for n in METRICS]
    keys = [key for key in keys if key in found]
    lines = ["|dataset|" + "|".join(keys) + "|", "|---|" + "---:|" * len(keys)]
    for name, row in rows.items():
        cells = ["-" if row.get(k) is None else f"{row[k]:.3f}" for k in keys]
        lines.append(f"|{name}|" + "|".join(cells) + "|")
    Path(args.output).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


METRICS = ("mse", "lcc", "srcc", "ktau")

if __name__ == "__main__":
    main()
