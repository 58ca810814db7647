#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make one training set of several data directories (stage 4 of mos.sh)."""

import argparse
import functools
import json
import os
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from espnet2.utils.types import str2bool

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    parse_votes,
    read_metric_scp,
    read_score_range,
    read_scp,
    write_scp,
)

Range = Tuple[float, float]
# Names that mean something within their corpus only.
_NAMES = ("utt2sys", "utt2spk", "utt2src")


class DataSet(NamedTuple):
    """A data set to combine: its name in --train_sets, directory and scale."""

    name: str
    folder: str
    score_range: Range

    def read(self, file: str) -> Dict[str, str]:
        """Lines of one of its files; none where it is not there."""
        path = os.path.join(self.folder, file)
        return read_scp(path) if os.path.exists(path) else {}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make one training set of several data directories. The corpus of "
        "an utterance is what its directory's utt2domain says, or the set's name; "
        "listeners, systems, speakers and sources get it as a prefix. utt2set has the "
        "set of each utterance, for sampling weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument(
        "--score_range", type=float, nargs=2, default=(1.0, 5.0), metavar=("LOW", "UP")
    )
    parser.add_argument(
        "--map_scores",
        type=str2bool,
        default=False,
        help="Map labels and votes of a set with another scale (its score_range) to "
        "--score_range, linearly, ends to ends; otherwise such a set is refused.",
    )
    parser.add_argument(
        "--keep_scores",
        type=str2bool,
        default=False,
        help="Keep the scale of each set, for losses that only compare utterances of "
        "one corpus; the file score_range says what holds all of them.",
    )
    return parser


def read_set(text: str, score_range: Range, any_scale: bool) -> DataSet:
    """Take NAME=DIR apart and read the set's scale.

    Raises:
        DataError: the scale is another one and nobody asked for a mapping, or it is
            not two numbers.
    """
    name, _, folder = text.partition("=")
    own = read_score_range(folder) or score_range
    if own != score_range and not any_scale:
        raise DataError(
            f"{folder}/score_range is '{own[0]:g} {own[1]:g}', and the training is "
            f"told '{score_range[0]:g} {score_range[1]:g}'; map it with --map_scores "
            f"true, keep it with --keep_scores true (ranking losses), or leave {name} "
            "out."
        )
    return DataSet(name, folder, own)


def rescale(score: float, old: Range, new: Range) -> float:
    """Map a score linearly, the ends of one scale to those of the other."""
    if old == new:
        return score
    share = (score - old[0]) / (old[1] - old[0])
    return min(max(new[0] + share * (new[1] - new[0]), new[0]), new[1])


def combine(
    sets: Sequence[DataSet], output_dir: str, score_range: Optional[Range]
) -> None:
    """Write the combined directory; wav.scp last, which says that the rest is there.

    Args:
        sets: what to combine.
        output_dir: where to.
        score_range: scale of the combined set; None keeps that of each.

    Raises:
        DataError: two sets have an utterance of the same id, a file cannot be read, or
            an utterance has no label line.
    """
    owner: Dict[str, DataSet] = {}
    files: Dict[str, Dict[str, str]] = {}

    def add(file: str, lines: Mapping[str, str]) -> None:
        files.setdefault(file, {}).update(lines)

    for data in sets:
        new = score_range or data.score_range
        mapped = functools.partial(rescale, old=data.score_range, new=new)
        wavs = read_scp(os.path.join(data.folder, "wav.scp"))
        for utt_id in wavs:
            if utt_id in owner:
                raise DataError(
                    f"{data.folder}/wav.scp: utterance {utt_id} is in "
                    f"{owner[utt_id].folder}/wav.scp, too, expected every id once; "
                    "copy one of the sets with utils/copy_data_dir.sh --utt-prefix."
                )
            owner[utt_id] = data
        own = data.read("utt2domain")
        domains = {utt_id: own.get(utt_id, data.name) for utt_id in wavs}
        add("wav.scp", wavs)
        add("utt2domain", domains)
        add("utt2set", {utt_id: data.name for utt_id in wavs})
        lengths = data.read("utt2num_samples")
        add("utt2num_samples", {i: lengths[i] for i in wavs if i in lengths})
        for file in _NAMES:
            names = data.read(file)
            add(file, {i: f"{domains[i]}/{names[i]}" for i in wavs if i in names})
        metrics = os.path.join(data.folder, "metric.scp")
        lines = data.read("metric.scp")
        scores = read_metric_scp(metrics, score_range=data.score_range)
        labels = {}
        for utt_id in wavs:
            if utt_id not in scores:
                raise DataError(
                    f"{metrics}: utterance {utt_id} has no line, expected one for each;"
                    f" write '{utt_id} {{}}' if it is unlabelled."
                )
            # Further scores, such as other predictors', are on scales of their own.
            entry: Dict[str, Any] = json.loads(lines[utt_id])
            if scores[utt_id] is not None:
                entry["mos"] = mapped(scores[utt_id])
            labels[utt_id] = json.dumps(entry)
        add("metric.scp", labels)
        votes = {}
        source = os.path.join(data.folder, "votes.scp")
        for utt_id, text in data.read("votes.scp").items():
            if utt_id in wavs:
                domain = domains[utt_id]
                pairs = parse_votes(text, utt_id, source, data.score_range)
                named = [(f"{domain}/{who}", mapped(score)) for who, score in pairs]
                votes[utt_id] = json.dumps(named, ensure_ascii=False)
        add("votes.scp", votes)
        scales = "{:g} to {:g} mapped to {:g} to {:g}"
        print(
            f"combine_data: {data.name}: {len(wavs)} utterances, {len(votes)} of them "
            f"with votes, labels {scales.format(*data.score_range, *new)}",
            file=sys.stderr,
        )
    path = os.path.join(output_dir, "score_range")
    if score_range is None:
        lows, ups = zip(*(data.score_range for data in sets))
        with atomic_write(path) as file:
            file.write(f"{min(lows):g} {max(ups):g}\n")
    elif os.path.exists(path):
        os.remove(path)  # of an earlier run
    for file in sorted(files, key=lambda name: name == "wav.scp"):
        path = os.path.join(output_dir, file)
        if files[file]:
            sources = [os.path.join(data.folder, file) for data in sets]
            _write_if_new(path, files[file], sources)
        elif os.path.exists(path):
            os.remove(path)  # of an earlier run


def _write_if_new(path: str, lines: Mapping[str, str], sources: List[str]) -> None:
    """Write a file; its date stays where it has these lines already.

    Not where a source is newer: there may be other audio under the same names.
    """
    dates = [os.path.getmtime(source) for source in sources if os.path.exists(source)]
    same = os.path.exists(path) and os.path.getmtime(path) >= max(dates, default=0)
    if not same or read_scp(path) != lines:
        write_scp(path, lines)


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)

    def work() -> int:
        score_range = tuple(args.score_range)
        any_scale = args.map_scores or args.keep_scores
        sets = [read_set(text, score_range, any_scale) for text in args.sets]
        combine(sets, args.output_dir, None if args.keep_scores else score_range)
        return 0

    return call(work)


if __name__ == "__main__":
    sys.exit(main())
