#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write a page on scores, to look at and to listen to: `distilmos report`."""

import argparse
import base64
import hashlib
import importlib.util
import json
import math
import os
import re
import sys
import urllib.parse
from importlib import resources
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from espnet2_distilmos import __version__
from espnet2_distilmos.cli import add_table_arguments, progress, run_command, split_name
from espnet2_distilmos.data.audio import AudioError
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_score_range,
    scan_scp,
)
from espnet2_distilmos.data.frames import npy_path, read_frames
from espnet2_distilmos.data.inputs import collect_inputs
from espnet2_distilmos.data.media import encode_mp3, read_start, spectrogram_jpeg
from espnet2_distilmos.evaluation import page, report
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.join import (
    ScoreFile,
    count,
    decode_name,
    match,
    shown,
)

_METRICS = ("lcc", "srcc", "mse")
# Of a clip, what is embedded.
_SECONDS = 30.0
# Points of a track of frame scores.
_TRACK_POINTS = 500
_MEGABYTE = 1_000_000
# Bytes that the last sentences of a page may add to what was measured.
_MARGIN = 20_000
# Of a clip to hear, beside its sound and picture.
_CARD = 1_000
_MISSING = (
    "the package {} is missing, expected it for a report; run 'pip install "
    "espnet2_distilmos[report]'."
)
# More stand on the screen only.
_MOST_PROBLEMS = 50


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos report",
        description="Write one HTML file on the scores of one or several models: "
        "systems, distributions, agreement with labels and between the models, a table "
        "of all clips, and players with spectrogram and frame scores for the worst, "
        "best, most novel and most disputed. It opens in any browser without a "
        "network. Needs the extra `report`.",
        epilog="Exit code: 0, or 1 when something was wrong with a clip or a file; the "
        "page is written all the same and says what.",
    )
    parser.add_argument(
        "scores",
        metavar="[NAME=]SCORES",
        nargs="+",
        help="scores of a model, named after their file by default; the first leads, "
        "its clips are those of the page",
    )
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="the page, such as report.html"
    )
    parser.add_argument(
        "--labels", metavar="LABELS", help="labels: file or data directory"
    )
    add_table_arguments(parser)
    parser.add_argument(
        "--cluster",
        metavar="UTT2SRC|REGEX",
        help="the same for the sentence or source of each clip, of which intervals "
        "take account; by default utt2src of the labels' data directory",
    )
    parser.add_argument(
        "--audio_root",
        "--audio-root",
        metavar="DIR",
        help="where the audio is, for paths (or ids) that are relative to it or come "
        "from another machine; by default the paths in the scores, or wav.scp of the "
        "labels' data directory",
    )
    parser.add_argument(
        "--frames",
        metavar="DIR",
        help="frame scores of the first model, of `distilmos predict --frames`; by "
        "default where the scores say that they are",
    )
    parser.add_argument(
        "--embed",
        type=int,
        default=10,
        metavar="N",
        help="clips of each kind that the page holds to be heard (%(default)s); 0: "
        "links to the files only",
    )
    parser.add_argument(
        "--max_mb",
        "--max-mb",
        type=float,
        default=30.0,
        metavar="MB",
        help="limit of the page's size (%(default)g): beyond it clips become links, "
        "and of a table that alone is larger the last rows are left out",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the intervals of correlations with the labels "
        "(%(default)s); 0 for none",
    )
    parser.add_argument("--title", help="title of the page")
    return parser


# Files


def _read_models(args: argparse.Namespace) -> Dict[str, ScoreFile]:
    models: Dict[str, ScoreFile] = {}
    for text in args.scores:
        name, path = split_name(text)
        if name in models:
            raise DataError(
                f"{models[name].path} and {path} have both the name {name}, expected a "
                "name for each model; name them as in NAME=FILE."
            )
        models[name] = read_scores(path, args.format, args.metric)
    return models


def _of_labels(
    clips: page.Clips, labels: Optional[str], name: str
) -> List[Optional[str]]:
    """What a file of the labels' data directory says of each clip, labelled or not."""
    path = os.path.join(labels or "", name)
    if not labels or not os.path.isfile(path):
        return [None] * len(clips.ids)
    lines, _ = scan_scp(path)
    known = {decode_name(utt_id): value for utt_id, value in lines.items()}
    pairs, _ = match([(i, None) for i in clips.ids], [(name, None) for name in known])
    values = list(known.values())
    return [values[pairs[i]] if i in pairs else None for i in range(len(clips.ids))]


def _find_systems(clips: page.Clips, labels: Optional[str]) -> None:
    """Add the systems that utt2sys has, and say which clips have none."""
    found = [
        name and decode_name(name) for name in _of_labels(clips, labels, "utt2sys")
    ]
    clips.systems = [a or b for a, b in zip(clips.systems, found)]
    lost = [i for i, system in zip(clips.ids, clips.systems) if system is None]
    if 0 < len(lost) < len(clips.ids):
        clips.problems.append(
            f"no file names the system of {count(lost)}, expected one for each; the "
            "systems are shown without them, name them with --systems."
        )


def _find_audio(
    clips: page.Clips, labels: Optional[str], root: Optional[str]
) -> List[Optional[str]]:
    """Return the path of each clip's file, None where nothing says it."""
    paths = [a or b for a, b in zip(clips.paths, _of_labels(clips, labels, "wav.scp"))]
    if root is None:
        return paths
    found = [
        os.path.join(root, path or utt_id) for path, utt_id in zip(paths, clips.ids)
    ]
    lost = [i for i, path in enumerate(found) if not os.path.isfile(path)]
    if lost:
        files = collect_inputs([root])
        pairs, _ = match(
            [(paths[i] or clips.ids[i], None) for i in lost],
            [(file.id, None) for file in files],
        )
        for k, i in enumerate(lost):
            found[i] = files[pairs[k]].path if k in pairs else paths[i]
    return found


def _link(path: Optional[str], output: str) -> Optional[str]:
    """A URL of a file: relative if it lies beside the page or below, else absolute."""
    if path is None or path.rstrip().endswith("|"):
        return None
    folder = os.path.dirname(os.path.abspath(output))
    path = os.path.abspath(path)
    if path.startswith(os.path.join(folder, "")):
        # A colon in it would make it another kind of address.
        return urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))
    return "file://" + urllib.parse.quote(os.fsencode(path))


# What is embedded


class _Track(NamedTuple):
    times: np.ndarray  # share of the time shown, 0 to 1
    scores: np.ndarray


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _embed(path: str) -> Dict[str, Any]:
    """The sound and the picture of a file.

    Raises:
        AudioError: It cannot be read.
    """
    samples, rate, whole = read_start(path, _SECONDS)
    return {
        "audio": _base64(encode_mp3(samples, rate)),
        "image": _base64(spectrogram_jpeg(samples, rate)),
        "top": f"{rate / 2000:g}",
        "seconds": len(samples) / rate,
        "whole": whole,
        "track": None,
    }


def _read_track(path: str, seconds: float) -> Optional[_Track]:
    """Frame scores of the seconds that are shown, in few points."""
    scores, times = read_frames(path)
    scores, times = scores[times <= seconds], times[times <= seconds]
    if not len(scores):
        return None
    parts = np.array_split(np.arange(len(scores)), min(len(scores), _TRACK_POINTS))
    mean = [[values[part].mean() for part in parts] for values in (times, scores)]
    return _Track(np.array(mean[0]) / seconds, np.array(mean[1]))


def _draw_track(track: _Track, score: float, low: float, high: float) -> Dict[str, Any]:
    """The track in a box of 1000 by 100, from ``low`` at its bottom to ``high``."""
    y = 100 * (high - track.scores) / (high - low)
    place = 100 * (high - score) / (high - low)
    return {
        "points": " ".join(f"{1000 * a:.0f},{b:.1f}" for a, b in zip(track.times, y)),
        "mean": round(place, 1) if 0 <= place <= 100 else None,
        "low": float(track.scores.min()),
        "high": float(track.scores.max()),
    }


class _Media:
    """Embeds clips, each once, while there is room."""

    def __init__(self, clips: page.Clips, paths: Sequence, frames: Optional[str]):
        self.clips, self.paths, self.frames = clips, paths, frames
        self.of_clip: Dict[int, Dict[str, Any]] = {}
        self.tracks: Dict[int, _Track] = {}
        self.remarks: Dict[int, str] = {}
        self.lost: List[int] = []  # clips whose file is not there
        self.size = 0
        self._faults: Dict[str, List[str]] = {}  # sentences by what they share

    @property
    def problems(self) -> List[str]:
        """A sentence for each kind of fault."""
        return [
            (
                f"clip {found[0]}"
                if len(found) == 1
                else f"{len(found)} clips, the first is {found[0]}"
            )
            for found in self._faults.values()
        ]

    def _note(self, clip: int, fault: str, path: str = "") -> None:
        kind = fault.replace(path, "") if path else fault
        sentence = f"{shown(self.clips.ids[clip])}: {fault}"
        self._faults.setdefault(kind, []).append(sentence)

    def add(self, clip: int, room: int) -> None:
        """Embed a clip, or remark why not."""
        path = self.paths[clip]
        if path is None:
            self.remarks[clip] = "No file is known."
            self._note(
                clip,
                "no file is known, expected a path to embed it; name the folder with "
                "--audio_root, or use --embed 0.",
            )
            return
        try:
            media = _embed(path)
        except AudioError as error:
            fault = str(error)
            if not os.path.exists(path):
                self.lost.append(clip)
                fault = f"{fault.rstrip('.')}, or name its folder with --audio_root."
            self.remarks[clip] = str(error)
            self._note(clip, fault, path)
            return
        size = len(media["audio"]) + len(media["image"]) + _CARD
        if self.size + size > room:
            self.remarks[clip] = "Not embedded, as the page would be too large."
            return
        if media["whole"] > media["seconds"] + 0.1:
            whole = media["whole"]
            self.remarks[clip] = f"The first {_SECONDS:g} s of {whole:.0f} s."
        self.size += size
        self.of_clip[clip] = media
        self._add_track(clip, media["seconds"])

    def _add_track(self, clip: int, seconds: float) -> None:
        path = self.clips.frames[clip]
        if self.frames:
            path = npy_path(self.frames, self.clips.ids[clip])
        if path is None:
            return
        try:
            track = _read_track(path, seconds)
        except DataError as error:
            self._note(clip, str(error), path)
            return
        if track is not None:
            self.tracks[clip] = track
            self.size += 12 * len(track.times)

    def draw_tracks(self) -> Optional[List[str]]:
        """Draw all tracks on one scale, and return its ends as text."""
        if not self.tracks:
            return None
        together = np.concatenate([track.scores for track in self.tracks.values()])
        low, high = float(np.floor(together.min())), float(np.ceil(together.max()))
        high = max(high, low + 1)
        scores = next(iter(self.clips.scores.values()))
        for clip, track in self.tracks.items():
            drawn = _draw_track(track, float(scores[clip]), low, high)
            self.of_clip[clip]["track"] = drawn
        return [f"{low:g}", f"{high:g}"]


# The page


def _check_output(args: argparse.Namespace) -> None:
    """Refuse an output that is an input, or that is there and is no regular file."""
    output = args.output
    what = ""
    if output == "-":
        what = "standard output"
    elif os.path.islink(output):
        what = "a link"
    elif os.path.exists(output) and not os.path.isfile(output):
        what = "a directory" if os.path.isdir(output) else "a device"
    if not what:
        inputs = [split_name(text)[1] for text in args.scores]
        inputs += [path for path in (args.labels, args.systems, args.cluster) if path]
        names = ("metric.scp", "wav.scp", "utt2sys", "utt2src", "votes.scp")
        inputs += [os.path.join(args.labels or "", n) for n in names if args.labels]
        if os.path.realpath(output) in map(os.path.realpath, inputs):
            what = "one of the files to read"
    if what:
        raise DataError(
            f"--output is {output}, {what}, expected a file to write; name another, "
            "such as report.html."
        )


def _packages() -> Dict[str, Any]:
    """What the packages of the extra have.

    Raises:
        DataError: One of them is missing, or is not as expected.
    """
    try:
        import jinja2
        import PIL  # noqa: F401, of data.media
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise DataError(_MISSING.format(str(error.name).partition(".")[0])) from error
    # Not imported: it would look for packages of tables that are not needed.
    found = importlib.util.find_spec("itables")
    if found is None or found.origin is None:
        raise DataError(_MISSING.format("itables"))
    bundle = Path(found.origin).parent / "html"
    script = bundle.joinpath("dt_bundle.js").read_text(encoding="utf-8")
    # A module within a page cannot be imported: what it exports becomes global.
    exports = re.search(r"\bexport\s*\{([^}]*)\}", script)
    name = exports and re.search(r"([\w$]+) as default", exports[1])
    if not name:
        raise DataError(
            "DataTables was not found in the package itables, expected it as in "
            "version 2.9; run 'pip install espnet2_distilmos[report]'."
        )
    public = f"globalThis.DataTable={name[1]}"
    script = script[: exports.start()] + public + script[exports.end() :]
    return {
        "jinja2": jinja2,
        "plotly": get_plotlyjs(),
        "table": script,
        "css": bundle.joinpath("dt_bundle.css").read_text(encoding="utf-8"),
    }


def _own_file(name: str) -> str:
    file = resources.files("espnet2_distilmos.evaluation").joinpath(name)
    return file.read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that can stand within a script element, whatever the names in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _scripts(packages: Dict[str, Any]) -> List[Dict[str, Any]]:
    found = []
    for text, is_module in (
        (packages["plotly"], False),
        (packages["table"], True),
        (_own_file("page.js"), True),
    ):
        # As the browser reads it, so that its digest is the one of the policy.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
        digest = _base64(hashlib.sha256(text.encode("utf-8")).digest())
        found.append({"text": text, "module": is_module, "digest": digest})
    return found


def _policy(scripts: Sequence[Dict[str, Any]]) -> str:
    """No network, and no script but the three."""
    digests = " ".join(f"'sha256-{script['digest']}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; "
        "img-src data: blob:; media-src data:; base-uri 'none'; form-action 'none'"
    )


def _fit_table(
    clips: page.Clips,
    hrefs: Sequence[Optional[str]],
    lists: Sequence[page.ClipList],
    cards: Mapping[int, int],
    apart: Optional[np.ndarray],
    room: int,
) -> Dict[str, Any]:
    """The table of clips, of as many rows as there is room for, those of lists first.

    Args:
        clips, hrefs: All clips, and links to their files.
        lists, cards: Clips to hear, and the number of the card that each has.
        apart: Disagreement of the models on each clip, or None.
        room: Bytes.
    """
    num_rows = len(clips.ids)
    while True:
        rows = sorted({*cards, *range(num_rows)})
        place = {clip: row for row, clip in enumerate(rows)}
        data = page.table_data(clips, rows, hrefs)
        data["apart"] = None if apart is None else page.rounded(apart, rows)
        data["cards"] = {place[clip]: card for clip, card in cards.items()}
        data["lists"] = [
            {"title": one.title, "rows": [place[clip] for clip in one.clips]}
            for one in lists
        ]
        size = len(_json(data))
        if size <= room or num_rows == 0:
            return data
        num_rows = int(num_rows * min(0.95, room / size))


def _clip(clips: page.Clips, i: int, hrefs: Sequence[Optional[str]]) -> Dict[str, Any]:
    def value(values: Optional[np.ndarray]) -> Optional[float]:
        if values is None or np.isnan(values[i]):
            return None
        return float(values[i])

    return {
        "number": i,
        "name": shown(clips.ids[i]),
        "system": shown(clips.systems[i] or ""),
        "href": hrefs[i],
        "scores": [value(scores) for scores in clips.scores.values()],
        "label": value(clips.labels),
        "novelty": value(clips.extra.get("novelty")),
    }


def make_report(args: argparse.Namespace) -> List[str]:
    """Read, embed and write; return the problems."""
    wrong = ""
    if args.embed < 0:
        wrong = f"--embed is {args.embed}, expected a number of clips or 0"
    elif args.bootstrap < 0:
        wrong = f"--bootstrap is {args.bootstrap}, expected a number of resamples or 0"
    elif not 0 < args.max_mb < math.inf:
        wrong = f"--max_mb is {args.max_mb}, expected a size such as 30"
    if wrong:
        raise DataError(f"{wrong}.")
    _check_output(args)
    packages = _packages()
    models = _read_models(args)
    labels, label_range, cluster = None, None, args.cluster
    if args.labels is not None:
        labels = read_scores(args.labels)
        label_range = read_score_range(args.labels)
        utt2src = os.path.join(args.labels, "utt2src")
        if cluster is None and os.path.isfile(utt2src):
            cluster = utt2src
    clips = page.collect(models, labels, args.systems, cluster)
    if args.systems is None:
        _find_systems(clips, args.labels)
    paths = _find_audio(clips, args.labels, args.audio_root)
    hrefs = [_link(path, args.output) for path in paths]
    content, figures, lists = _describe(args, clips, models, label_range)
    # A clip is shown in the first of its lists.
    in_lists = dict.fromkeys(clip for one in lists for clip in one.clips)
    cards = {clip: number for number, clip in enumerate(in_lists, 1)}
    scripts = _scripts(packages)
    content.update(
        notes=clips.notes,
        table_css=packages["css"].replace("</style", "<\\/style"),
        policy=_policy(scripts),
        scripts=scripts,
        figures=_json(figures),
        card_of=cards,
        **{
            name: [_clip(clips, i, hrefs) for i in content[name]]
            for name in ("residuals", "disputed")
        },
    )
    for row in content["overview"]["rows"]:
        row["worst"] = [_clip(clips, i, hrefs) for i in row["worst"]]
        for clip in row["worst"]:
            # There is no room for folders, in which paths begin alike.
            clip["name"] = clip["name"].rstrip("/").rpartition("/")[2] or clip["name"]
    content.update(
        list_links=[(one.key, one.title) for one in lists],
    )

    def render(data: Dict[str, Any], media: _Media, fixed: int = 0) -> bytes:
        num_rows, num_heard = len(data.get("number", ())), len(media.of_clip)
        problems = list(dict.fromkeys([*clips.problems, *media.problems]))
        table = _json(data)
        content.update(
            data=table,
            problems=problems[:_MOST_PROBLEMS],
            num_further=len(problems[_MOST_PROBLEMS:]),
            lists=_listening(clips, lists, media, hrefs),
            num_heard=num_heard,
            frame_range=media.draw_tracks(),
            table_note=_table_note(num_rows, len(clips.ids), args.max_mb),
            size_note=f"Scripts, figures and text {fixed / _MEGABYTE:.1f} MB, table of "
            f"{_number(num_rows, 'clip')} {len(table) / _MEGABYTE:.1f} MB, sound and "
            f"spectrograms of {num_heard} clips {media.size / _MEGABYTE:.1f} MB; limit "
            f"{args.max_mb:g} MB (--max_mb).",
        )
        return _render(packages["jinja2"], content)

    media = _Media(clips, paths, args.frames)
    limit = int(args.max_mb * _MEGABYTE)
    fixed = len(render({}, media)) + _MARGIN
    if limit <= fixed:
        raise DataError(
            f"--max_mb is {args.max_mb:g}, expected more than the "
            f"{fixed / _MEGABYTE:.2f} MB of scripts, figures and text; raise it."
        )
    apart = page.disagreement(clips.scores)
    data = _fit_table(clips, hrefs, lists, cards, apart and apart.values, limit - fixed)
    data["residuals"] = content["has_residuals"]
    if args.embed > 0:
        room = limit - fixed - len(_json(data))
        # In turn, so that a full page has the head of every list.
        turns = [one.clips[k : k + 1] for k in range(args.embed) for one in lists]
        order = dict.fromkeys(clip for turn in turns for clip in turn)
        for clip in progress(order, "clips", len(order), "clip"):
            media.add(clip, room)
    data["heard"] = [cards[clip] for clip in media.of_clip]
    row_of = {card: row for row, card in data["cards"].items()}
    for clip in media.lost:
        # A link would lead nowhere.
        hrefs[clip], data["file"][row_of[cards[clip]]] = None, ""
    text = render(data, media, fixed)
    with atomic_write(args.output, "wb") as file:
        file.write(text)
    print(
        f"The report is in {args.output}: {len(text) / _MEGABYTE:.1f} MB, "
        f"{_number(len(data['number']), 'clip')} in the table, "
        f"{len(media.of_clip)} to hear"
    )
    return [*clips.problems, *media.problems]


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _title(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return f"Scores of {', '.join(map(shown, names[: 3 if more else 4]))}{more}"


def _table_note(num_rows: int, num_clips: int, limit: float) -> str:
    if num_rows == num_clips:
        return f"All {num_clips} clips." if num_clips > 1 else "The only clip."
    return (
        f"{num_rows} of {num_clips} clips, the first of the file and those of the "
        f"lists below: with all, the page would exceed {limit:g} MB (--max_mb)."
    )


def _describe(
    args: argparse.Namespace,
    clips: page.Clips,
    models: Dict[str, ScoreFile],
    label_range: Optional[Sequence[float]],
):
    """What the page says but for the audio, its figures by place, the clips to hear."""
    names = list(clips.scores)
    rows = page.system_rows(clips)
    figures = {"figure-systems": page.system_figure(clips, rows)}
    distributions = page.distribution_figures(clips)
    figures.update({f"figure-distribution-{k}": f for k, f in enumerate(distributions)})
    notes = []
    if len(rows) > page.MOST_SYSTEMS_DRAWN:
        half = page.MOST_SYSTEMS_DRAWN // 2
        notes.append(f"The figure has the {half} best and {half} worst systems.")
    if len(rows) > page.MOST_SYSTEMS:
        notes.append(f"The table has the first {page.MOST_SYSTEMS} of {len(rows)}.")
    metrics, label_figures, has_residuals = None, [], False
    if args.labels is not None:
        prediction = {name: file.path for name, file in models.items()}
        scored = page.scored_models(clips, prediction, args.labels, label_range)
        metrics = page.metrics_table(scored, _METRICS, args.bootstrap)
        has_residuals = bool(scored) and not scored[0].two_scales
        for k, one in enumerate(scored):
            figure = page.scatter_figure(
                clips, page.LABELS, one.model, not one.two_scales
            )
            label_figures.append(f"figure-label-{k}")
            figures[label_figures[-1]] = figure
    overview = page.overview(clips, metrics)
    lists = page.clip_lists(clips, args.embed or 10, has_residuals)
    longer = {one.key: one.clips for one in page.clip_lists(clips, 20, has_residuals)}
    apart = page.disagreement(clips.scores)
    comparisons = []
    for other in names[1:]:
        key = f"figure-models-{len(comparisons)}"
        same = apart is not None and not apart.in_ranks
        figure = page.scatter_figure(clips, names[0], other, same)
        found = page.changed_pairs(clips, names[0], other)
        comparisons.append(
            {
                "names": [names[0], other],
                "figure": key if figure else None,
                "num_pairs": found.num_pairs,
                "num_left_out": found.num_left_out,
                "num_changed": len(found.pairs),
                "num_clear": sum(pair.clear for pair in found.pairs),
                "pairs": found.pairs[: page.MOST_PAIRS],
            }
        )
        if figure:
            figures[key] = figure
    num_scored = [int(np.isfinite(v).sum()) for v in clips.scores.values()]
    has_systems = rows[0]["system"] is not None
    parts = [_number(len(clips.ids), "clip")]
    parts += [_number(len(rows), "system")] if has_systems else []
    of_model = [f"{shown(n)}: {_number(k, 'score')}" for n, k in zip(names, num_scored)]
    parts += of_model if len(names) <= 4 else [_number(len(names), "model")]
    if clips.labels is not None:
        parts.append(_number(int(np.isfinite(clips.labels).sum()), "label"))
    sections = [("systems", "Systems" if has_systems else "All clips")]
    sections += [("distributions", "Distributions")]
    sections += [("labels", "Against the labels")] if metrics else []
    sections += [("models", "Where the models disagree")] if comparisons else []
    sections += [("clips", "Table of clips"), ("listen", "Clips to hear")]
    of = "clips" if clips.clusters is None else "sources (--cluster)"
    content = {
        "title": args.title or _title(names),
        "overview": overview,
        "summary": ", ".join(parts) + ".",
        "version": __version__,
        "command": args.command,
        "sections": sections,
        "series": list(clips.series),
        "models": names,
        "several": len(names) > 1,
        "has_labels": clips.labels is not None,
        "has_systems": has_systems,
        "system_rows": rows[: page.MOST_SYSTEMS],
        "interval_note": f"The intervals are about other {of} of the same system; of "
        "fewer than 6 there is none.",
        "system_note": " ".join(notes),
        "distributions": [key for key in figures if "distribution" in key],
        "metrics": metrics,
        "label_figures": label_figures,
        "comparisons": comparisons,
        "residuals": longer.get("errors", []),
        "disputed": longer.get("disputed", []) if comparisons else [],
        "has_residuals": has_residuals,
        "embed": args.embed,
        "seconds": f"{_SECONDS:g}",
    }
    return content, figures, lists


def _listening(
    clips: page.Clips,
    lists: Sequence[page.ClipList],
    media: _Media,
    hrefs: Sequence[Optional[str]],
) -> List[Dict[str, Any]]:
    """The lists of clips to hear: ``cards``, and clips that an earlier list has."""
    done: Dict[int, Dict[str, Any]] = {}
    found = []
    for one in lists:
        new = [i for i in one.clips if i not in done]
        old = [done[i] for i in one.clips if i in done]
        for i in new:
            done[i] = _clip(clips, i, hrefs)
            done[i].update(media=media.of_clip.get(i), remark=media.remarks.get(i))
        cards = [done[i] for i in new]
        found.append({**one._asdict(), "cards": cards, "elsewhere": old})
    return found


def _render(jinja2: Any, content: Dict[str, Any]) -> bytes:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = report.format_value
    environment.filters["text"] = shown
    text = environment.from_string(_own_file("page.html")).render(content)
    # Bytes of a name that are no text.
    return text.encode("utf-8", "backslashreplace")


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), make_report, cmd)


if __name__ == "__main__":
    sys.exit(main())
