# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the page of `distilmos report` shows, as plain data.

Clips of all models side by side, rows of tables, lists of clips to hear, and figures as
plotly's JSON. Nothing here needs plotly, writes HTML or opens audio.
"""

import dataclasses
import html
import itertools
import math
from typing import Any, Dict, Hashable, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import scipy

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.bootstrap import Resampler, bootstrap_intervals
from espnet2_distilmos.evaluation.join import (
    Score,
    ScoreFile,
    clusters_of,
    count,
    match,
    shown,
    systems_of,
)
from espnet2_distilmos.evaluation.metrics import (
    SYSTEM_DECIMALS,
    differ_in_scale,
    evaluate,
)
from espnet2_distilmos.evaluation.plots import COLOURS
from espnet2_distilmos.evaluation.report import DASH, Scored, format_value, two_scales
from espnet2_distilmos.evaluation.systems import mean_interval, significant_pairs

LABELS = "label"
# More clips are drawn as a density, more systems and pairs are left out of figure and
# tables: the page says so.
MOST_POINTS = 3000
MOST_SYSTEMS_DRAWN = 60
MOST_SYSTEMS = 500
MOST_PAIRS = 20
# Names in figures are shortened to this, and beside the systems on a narrow screen.
_NAME_LENGTH, _NARROW_LENGTH = 28, 13
_MOST_BINS = 50
# Six colours with seven markers, or five dashes, are alike only after 42 (30) models;
# black, the diamond and the thick line are the labels'.
_MODEL_COLOURS, _LABEL_COLOUR = COLOURS[:6], COLOURS[6]
_MARKERS = ("circle", "square", "triangle-up", "x", "cross", "star", "triangle-down")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
# Of the figure of systems in pixels, unless that leaves less than 22 to each.
_MOST_HEIGHT = 1600

Row = Dict[str, Any]


@dataclasses.dataclass
class Clips:
    """N clips as all files together know them, in the order of the first.

    Attributes:
        ids, paths, systems: Of each clip; None where there is none.
        clusters: Source of each clip, whose clips are not independent; or None.
        scores: (N,) by model, NaN where it has no score; the first model leads.
        labels: (N,), NaN where there is none; None without labels.
        votes: Listener and score of each vote, by clip; as of ``Scored``.
        extra: (N,) of ``novelty``, ``lower`` and ``upper`` of the first model, NaN
            where it has none; those that no clip has are not there.
        errors: Why a clip has no score, by its number.
        frames: File of the first model's frame scores, None where the row names none.
        problems: A sentence for everything that was wrong.
        notes: Sentences on what was left out; nothing is wrong.
    """

    ids: List[str]
    paths: List[Optional[str]]
    systems: List[Optional[str]]
    clusters: Optional[List[Hashable]]
    scores: Dict[str, np.ndarray]
    labels: Optional[np.ndarray]
    votes: List[List]
    extra: Dict[str, np.ndarray]
    errors: Dict[int, str]
    frames: List[Optional[str]]
    problems: List[str]
    notes: List[str]

    @property
    def series(self) -> Dict[str, np.ndarray]:
        """Scores by model, and the labels where there are any."""
        found = dict(self.scores)
        if self.labels is not None:
            found[LABELS] = self.labels
        return found


def collect(
    models: Mapping[str, ScoreFile],
    labels: Optional[ScoreFile] = None,
    systems: Optional[str] = None,
    cluster: Optional[str] = None,
) -> Clips:
    """Put the scores of several models, and labels, side by side.

    Args:
        models: Scores by the name of the model; its clips are those of the first.
        labels: Labels of some of them, or None.
        systems, cluster: As of ``systems_of`` and ``clusters_of``; None takes the
            systems that the files name, and no clusters.

    Raises:
        DataError: A model or the labels share no clip with the first model, or a model
            has the name that the labels have in the tables.
    """
    if labels is not None and LABELS in models:
        raise DataError(
            f"a model has the name {LABELS}, expected another, which the labels have; "
            f"name it as in NAME={models[LABELS].path}."
        )
    first = next(iter(models.values()))
    ids = [record.id for record in first.records]
    problems = [p for file in (*models.values(), labels) if file for p in file.problems]
    notes: List[str] = []
    columns: Dict[str, List[Optional[Score]]] = {}
    for name, file in models.items():
        columns[name], missing, unknown = _align(first, file, problems)
        if missing:
            problems.append(
                f"{file.path} does not have {count(missing)} of {first.path}, expected "
                "scores of the same clips; predict them too."
            )
        if unknown:
            problems.append(
                f"{first.path} does not have {count(unknown)} of {file.path}; left "
                "out, name the larger file first."
            )
        unscored = [r.id for r in columns[name] if r and r.score is None]
        if unscored:
            problems.append(
                f"{file.path} has no score for {count(unscored)}; the table of clips "
                "says why."
            )
    of_labels: List[Optional[Score]] = [None] * len(ids)
    if labels is not None:
        of_labels, missing, unknown = _align(first, labels, problems)
        if missing:
            notes.append(f"{labels.path} has no label for {count(missing)}.")
        if unknown:
            problems.append(
                f"{first.path} does not have {count(unknown)} of {labels.path}; left "
                "out, predict them too."
            )
    sources = [*columns.values(), of_labels]
    known = [[r for r in of_clip if r is not None] for of_clip in zip(*sources)]
    names = [next((r.system for r in rs if r.system), None) for rs in known]
    if systems is not None:
        names, sentences = systems_of(ids, systems)
        problems += sentences
    clusters = None
    if cluster is not None:
        clusters, sentences = clusters_of(ids, cluster)
        problems += sentences
    extra = {k: _numbers(first.records, k) for k in ("novelty", "lower", "upper")}
    return Clips(
        ids=ids,
        paths=[next((r.path for r in rs if r.path), None) for rs in known],
        systems=names,
        clusters=clusters,
        scores={name: _scores(column) for name, column in columns.items()},
        labels=None if labels is None else _scores(of_labels),
        votes=[
            [(v.listener or k, v.score) for k, v in enumerate(r.votes)] if r else []
            for r in of_labels
        ],
        extra={k: values for k, values in extra.items() if np.isfinite(values).any()},
        errors=_errors(columns),
        frames=[_text(record.extra.get("frames")) for record in first.records],
        problems=list(dict.fromkeys(problems)),
        notes=notes,
    )


def _align(first: ScoreFile, file: ScoreFile, problems: List[str]):
    """Records of a file by clip of the first, ids that lack there, and those here."""
    if file is first:
        return list(first.records), [], []
    sides = [[(r.id, r.path) for r in one.records] for one in (first, file)]
    pairs, ambiguous = match(*sides)
    if not pairs:
        raise DataError(
            f"{first.path} and {file.path} share no clip, expected the same clips; "
            "their ids or paths must be alike."
        )
    if ambiguous:
        problems.append(
            f"{first.path} and {file.path} do not match uniquely in "
            f"{count(ambiguous)}; left out, use one id."
        )
    found = [
        file.records[pairs[i]] if i in pairs else None for i in range(len(sides[0]))
    ]
    left, used = set(ambiguous), set(pairs.values())
    missing = [r.id for i, r in enumerate(first.records) if i not in pairs]
    unknown = [r.id for j, r in enumerate(file.records) if j not in used]
    return found, *([i for i in ids if i not in left] for ids in (missing, unknown))


def _scores(records: Sequence[Optional[Score]]) -> np.ndarray:
    values = [None if record is None else record.score for record in records]
    return np.array(values, dtype=np.float64)


def _numbers(records: Sequence[Score], name: str) -> np.ndarray:
    """A further value as numbers (N,), NaN where it is none."""
    values = [record.extra.get(name) for record in records]
    good = [isinstance(v, (int, float)) and math.isfinite(v) for v in values]
    return np.array([v if g else np.nan for v, g in zip(values, good)], np.float64)


def _text(value: Any) -> Optional[str]:
    return value if isinstance(value, str) and value else None


def _errors(columns: Mapping[str, Sequence[Optional[Score]]]) -> Dict[int, str]:
    found: Dict[int, List[str]] = {}
    for name, records in columns.items():
        for i, record in enumerate(records):
            if record is None or record.score is None:
                error = (record and record.error) or "no score"
                text = error if len(columns) == 1 else f"{name}: {error}"
                found.setdefault(i, []).append(text)
    return {i: " ".join(texts) for i, texts in found.items()}


def scored_models(
    clips: Clips,
    prediction: Mapping[str, str],
    reference: str,
    label_range: Optional[Sequence[float]] = None,
) -> List[Scored]:
    """Return each model beside the labels, for ``report.score``.

    Args:
        clips: With labels.
        prediction: File of each model.
        reference: File of the labels.
        label_range: Scale of the labels where it is known.
    """
    found = []
    for name, scores in clips.scores.items():
        keep = np.flatnonzero(np.isfinite(scores) & np.isfinite(clips.labels))
        if not len(keep):
            continue
        pred, true = scores[keep], clips.labels[keep]
        systems = [clips.systems[i] for i in keep]
        found.append(
            Scored(
                *(name, "", reference, prediction[name]),
                *([clips.ids[i] for i in keep], pred, true),
                systems=systems if any(systems) else None,
                clusters=clips.clusters and [clips.clusters[i] for i in keep],
                votes=[clips.votes[i] for i in keep],
                num_unlabelled=int(np.isnan(clips.labels).sum()),
                two_scales=two_scales(pred, true, label_range, None),
                problems=[],
            )
        )
    return found


def metrics_table(
    scored: Sequence[Scored], names: Sequence[str], num_resamples: int
) -> Row:
    """Errors and correlations with their intervals: ``head``, ``rows``, ``notes``.

    Args:
        scored: Of ``scored_models``.
        names: Of the metrics, from ``ALL_METRICS``.
        num_resamples: Of the bootstrap; 0 for no intervals.
    """
    levels = ["utt", "sys"] if any(one.systems for one in scored) else ["utt"]
    keys = [f"{level}_mos_{name}" for level in levels for name in names]
    rows: List[List[str]] = []
    notes: Dict[str, List[str]] = {}  # models by what is said of them
    for one in scored:
        data = (one.pred, one.true, one.systems)
        values = evaluate(*data, names, one.no_error)
        intervals: Mapping[str, Any] = {}
        if num_resamples:
            options = (one.clusters, num_resamples)
            intervals = bootstrap_intervals(*data, *options, metrics=names)
            few = Resampler(len(one.ids), one.systems, one.clusters).too_few
            if few:
                notes.setdefault(f"no interval, {few}", []).append(shown(one.model))
        if one.no_error:
            # Of several models only their own ranges differ: the first is the example.
            said = next((other.no_error for other in scored if other.no_error), "")
            notes.setdefault(said, []).append(shown(one.model))
        cells = [format_value(values[key], intervals.get(key)) for key in keys]
        rows.append([one.model, str(len(one.ids)), *cells])
    titles = [f"{level} {name.upper()}" for level in levels for name in names]
    sentences = [f"{_and_more(names)}: {text}." for text, names in notes.items()]
    return {"head": ["model", "clips", *titles], "rows": rows, "notes": sentences}


def _and_more(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def overview(clips: Clips, metrics: Optional[Row], number: int = 3) -> Row:
    """What one wants to know first of each model.

    Args:
        clips: All clips.
        metrics: Of ``metrics_table``, or None without labels.
        number: Of the worst clips.

    Returns:
        ``head``, the correlations that there are, and ``rows``: ``model``, ``mean``,
        ``cells`` of the correlations, ``num_failed`` (clips without a score) and
        ``worst``, the numbers of the clips with the lowest scores.
    """
    head = metrics["head"] if metrics else []
    places = [k for k, title in enumerate(head) if title.endswith(("LCC", "SRCC"))]
    of_model = {row[0]: row for row in metrics["rows"]} if metrics else {}
    rows = []
    for name, scores in clips.scores.items():
        finite = scores[np.isfinite(scores)]
        row = of_model.get(name)
        # The intervals are in the table below.
        cells = [row[k].partition(" [")[0] if row else DASH for k in places]
        rows.append(
            {
                "model": name,
                "mean": float(finite.mean()) if len(finite) else None,
                "cells": cells,
                "num_failed": len(scores) - len(finite),
                "worst": _top(-scores, number),
            }
        )
    return {"head": [head[k] for k in places], "rows": rows}


# Systems


def system_rows(clips: Clips) -> List[Row]:
    """Describe each system by each model and the labels, the best first.

    Returns:
        ``system``, ``num_clips`` and ``of``: for each of ``Clips.series`` its
        ``mean``, ``interval`` (95 % for other clips, pair or None) and ``p5`` and
        ``p95``, or None where nothing of the system has a score. A clip without a
        system is in no row; without systems there is a row of all clips.
    """
    members: Dict[Optional[str], List[int]] = {}
    for i, system in enumerate(clips.systems):
        if system is not None:
            members.setdefault(system, []).append(i)
    if not members:
        members[None] = list(range(len(clips.ids)))
    rows = []
    for system, index in members.items():
        row: Row = {"system": system, "num_clips": len(index), "of": {}}
        for name, values in clips.series.items():
            finite = [i for i in index if np.isfinite(values[i])]
            of_model = None
            if finite:
                clusters = clips.clusters and [clips.clusters[i] for i in finite]
                mean = mean_interval(values[finite], clusters)
                p5, p95 = np.percentile(values[finite], [5, 95])
                of_model = {"mean": mean.mean, "interval": mean.interval}
                of_model.update(p5=float(p5), p95=float(p95))
            row["of"][name] = of_model
        rows.append(row)
    first = next(iter(clips.scores))

    def place(row: Row):
        found = row["of"][first]
        return (-found["mean"] if found else math.inf, row["system"] or "")

    return sorted(rows, key=place)


class ChangedPair(NamedTuple):
    """Two systems of which one model prefers the first and another the second.

    ``differences`` are those of the means, first minus second, of the two models and
    of the labels (None without). ``clear``: in both models the two differ
    significantly.
    """

    first: str
    second: str
    differences: List[Optional[float]]
    clear: bool


class ChangedPairs(NamedTuple):
    """All pairs that two models order differently, the clearest first."""

    pairs: List[ChangedPair]
    num_pairs: int  # of systems that were compared
    num_left_out: int  # systems that were not, as there were too many


def changed_pairs(clips: Clips, one: str, other: str) -> ChangedPairs:
    """Find the pairs of systems that two models order differently.

    Means are over the clips that both scored; of more than ``MOST_SYSTEMS`` systems
    those with the most clips are compared. Significant is what Welch's test of the
    clips' scores says with Holm's correction, see ``significant_pairs``; clips of one
    source, which the test takes for independent, make it careful or bold.
    """
    values = [clips.scores[one], clips.scores[other]]
    both = np.isfinite(values).all(axis=0)
    members: Dict[str, List[int]] = {}
    for i in np.flatnonzero(both):
        if clips.systems[i] is not None:
            members.setdefault(clips.systems[i], []).append(i)
    num_systems = len(members)
    largest = sorted(members, key=lambda system: -len(members[system]))
    members = {system: members[system] for system in largest[:MOST_SYSTEMS]}
    names = list(members)
    means = np.array(
        [
            [np.round(v[members[s]].mean(), SYSTEM_DECIMALS) for s in names]
            for v in values
        ]
    ).reshape(2, len(names))
    clear = []
    for of_model in values:
        pairs, _ = significant_pairs({s: of_model[i] for s, i in members.items()})
        clear.append({frozenset((p.better, p.worse)) for p in pairs})
    first, second = np.triu_indices(len(names), 1)
    differences = means[:, first] - means[:, second]
    found = []
    for k in np.flatnonzero(differences[0] * differences[1] < 0):
        i, j = first[k], second[k]
        if differences[0, k] < 0:
            i, j = j, i
        pair = frozenset((names[i], names[j]))
        of_labels = None
        if clips.labels is not None:
            true = [clips.labels[members[names[s]]] for s in (i, j)]
            true = [t[np.isfinite(t)] for t in true]
            if all(map(len, true)):
                of_labels = float(true[0].mean() - true[1].mean())
        deltas = [float(means[m, i] - means[m, j]) for m in (0, 1)]
        is_clear = all(pair in of_model for of_model in clear)
        found.append(ChangedPair(names[i], names[j], [*deltas, of_labels], is_clear))
    spread = [float(row.std()) or 1.0 for row in means] if len(names) else [1.0, 1.0]
    # By the smaller of the two differences, each in units of its model.
    found.sort(
        key=lambda pair: (
            not pair.clear,
            -min(abs(d) / s for d, s in zip(pair.differences, spread)),
        )
    )
    return ChangedPairs(found, len(first), num_systems - len(names))


# Clips to hear


class Disagreement(NamedTuple):
    """How far apart the models are (N,), NaN where fewer than two have a score."""

    values: np.ndarray
    in_ranks: bool  # as they are on different scales


def disagreement(scores: Mapping[str, np.ndarray]) -> Optional[Disagreement]:
    """Highest minus lowest score of each clip over the models; None for one model.

    Of models that are plainly on two scales it is the highest minus the lowest rank,
    from 0 for a model's worst to 1 for its best clip.
    """
    if len(scores) < 2:
        return None
    table = np.array(list(scores.values()))
    finite = [row[np.isfinite(row)] for row in table]
    in_ranks = any(differ_in_scale(*two) for two in itertools.permutations(finite, 2))
    if in_ranks:
        for row, values in zip(table, finite):
            ranks = scipy.stats.rankdata(values)
            row[np.isfinite(row)] = (ranks - 1) / max(1, len(values) - 1)
    known = np.isfinite(table)
    found = np.where(known, table, -np.inf).max(axis=0)
    found -= np.where(known, table, np.inf).min(axis=0)
    found[known.sum(axis=0) < 2] = np.nan
    return Disagreement(found, in_ranks)


class ClipList(NamedTuple):
    """Clips worth hearing: their numbers, in order."""

    key: str
    title: str
    text: str
    clips: List[int]


def clip_lists(clips: Clips, number: int, residuals: bool = True) -> List[ClipList]:
    """Choose the clips to hear, ``number`` of each kind that there is.

    The lowest and highest scores of the first model, the most novel clips where it says
    how novel they are, the most disputed (between models, or else between listeners
    where they voted), and with labels, unless ``residuals`` is False, the largest
    errors.
    """
    first, scores = next(iter(clips.scores.items()))
    several = len(clips.scores) > 1
    of_first = f" of {first}" if several else ""
    found = [
        ClipList(
            "worst", "Worst", f"The lowest scores{of_first}.", _top(-scores, number)
        ),
        ClipList(
            "best", "Best", f"The highest scores{of_first}.", _top(scores, number)
        ),
    ]
    if "novelty" in clips.extra:
        text = "Least like the training set; above 1 a score is not to be trusted."
        chosen = _top(clips.extra["novelty"], number)
        found.append(ClipList("novel", "Most novel", text, chosen))
    if apart := disagreement(clips.scores):
        text = "Where the scores of the models are furthest apart"
        text += ", in ranks, as their scales differ." if apart.in_ranks else "."
        # Models that agree everywhere dispute nothing.
        chosen = [i for i in _top(apart.values, number) if apart.values[i] > 0]
        found.append(ClipList("disputed", "Most disputed", text, chosen))
    elif any(len(votes) > 1 for votes in clips.votes):
        spread = [
            np.std([s for _, s in v]) if len(v) > 1 else np.nan for v in clips.votes
        ]
        text = "Where the listeners' votes are furthest apart (standard deviation)."
        chosen = _top(np.array(spread), number)
        found.append(ClipList("disputed", "Most disputed", text, chosen))
    if residuals and clips.labels is not None:
        text = f"Where the scores{of_first} are furthest from the labels."
        chosen = _top(np.abs(scores - clips.labels), number)
        found.append(ClipList("errors", "Largest errors", text, chosen))
    return [one for one in found if one.clips]


def _top(values: np.ndarray, number: int) -> List[int]:
    """Places of the largest values, NaN apart; of equal ones the first."""
    order = np.argsort(-values, kind="stable")
    return [int(i) for i in order if np.isfinite(values[i])][:number]


# The table of clips


def table_data(
    clips: Clips, rows: Sequence[int], hrefs: Sequence[Optional[str]]
) -> Row:
    """Columns of the table of clips, as the page's script takes them.

    Args:
        clips: All clips.
        rows: Numbers of those that the table has.
        hrefs: Link to the file of each clip, as a URL, or None.
    """
    systems = list(dict.fromkeys(s for s in clips.systems if s is not None))
    number = {system: k for k, system in enumerate(systems)}
    ids = [shown(clips.ids[i]) for i in rows]
    folders: Dict[str, int] = {}
    places, names = [], []
    for i, utt_id in zip(rows, ids):
        folder, slash, name = (hrefs[i] or "").rpartition("/")
        places.append(folders.setdefault(folder + slash, len(folders)))
        # Most files have the name of their clip.
        names.append(name.replace(utt_id, "\n", 1) if utt_id else name)
    row_of = {i: row for row, i in enumerate(rows)}
    columns = {**clips.extra}
    if clips.labels is not None:
        columns[LABELS] = clips.labels
    return {
        "number": [i + 1 for i in rows],
        "id": ids,
        "system": [number.get(clips.systems[i], -1) for i in rows],
        "systems": list(map(shown, systems)),
        "models": list(map(shown, clips.scores)),
        "scores": [rounded(v, rows) for v in clips.scores.values()],
        "columns": {name: rounded(v, rows) for name, v in columns.items()},
        "folders": list(folders),
        "folder": places,
        "file": names,
        "errors": {row_of[i]: e for i, e in clips.errors.items() if i in row_of},
    }


def rounded(values: np.ndarray, rows: Sequence[int]) -> List[Optional[float]]:
    """Values of some clips as JSON has them, with six decimals; None for NaN."""
    # What is whole is shorter without a point.
    found = values[list(rows)].round(6).tolist()
    return [None if v != v else int(v) if v == int(v) else v for v in found]


# Figures


def _named(name: Optional[str], length: int = _NAME_LENGTH) -> str:
    """A name as plotly shows it as text: without markup and not too long."""
    text = shown(name or "all clips")
    if len(text) > length:
        # Names of one set often begin alike.
        text = f"{text[: length // 2]}…{text[-((length - 1) // 2) :]}"
    # Plotly decodes no entities of quotes.
    return html.escape(text, quote=False)


def _mark(name: str, k: int) -> Row:
    """Colour, marker, dash and width of the line of one of ``Clips.series``."""
    if name == LABELS:
        mark = (_LABEL_COLOUR, "diamond", "solid", 3)
    else:
        mark = (
            _MODEL_COLOURS[k % len(_MODEL_COLOURS)],
            _MARKERS[k % len(_MARKERS)],
            _DASHES[k % len(_DASHES)],
            2,
        )
    return dict(zip(("color", "symbol", "dash", "width"), mark))


def _figure(data: List[Row], height: int, x: str, y: str, **layout: Any) -> Row:
    # Of the container: as paper is narrower, the margins change late.
    at_top = {"yref": "container", "yanchor": "top", "y": 0.999}
    axis = {"gridcolor": "#dddddd", "zeroline": False, "automargin": True}
    return {
        "data": data,
        "layout": {
            "height": height,
            "margin": {"l": 50, "r": 15, "t": 40 if len(data) > 1 else 10, "b": 45},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
            "plot_bgcolor": "#ffffff",
            "paper_bgcolor": "#ffffff",
            "dragmode": False,
            "hovermode": "closest",
            "legend": {**at_top, "orientation": "h", "x": 0},
            "showlegend": len(data) > 1,
            "xaxis": {**axis, "title": {"text": html.escape(x, quote=False)}},
            "yaxis": {**axis, "title": {"text": html.escape(y, quote=False)}},
            **layout,
        },
    }


def _same_scale(series: Mapping[str, np.ndarray]) -> List[Dict[str, np.ndarray]]:
    """Group what is on one scale."""
    groups: List[Dict[str, np.ndarray]] = []
    for name, values in series.items():
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        for group in groups:
            other = next(iter(group.values()))
            if not (differ_in_scale(values, other) or differ_in_scale(other, values)):
                group[name] = values
                break
        else:
            groups.append({name: values})
    return groups


def system_figure(clips: Clips, rows: Sequence[Row]) -> Row:
    """Means with intervals and p5 to p95 of the rows of ``system_rows``.

    ``narrow`` of the figure are shorter names for a narrow screen.
    """
    if len(rows) > MOST_SYSTEMS_DRAWN:
        half = MOST_SYSTEMS_DRAWN // 2
        rows = [*rows[:half], *rows[-half:]]
    names = list(next(iter(_same_scale(clips.series)), {}))
    data = []
    for k, name in enumerate(names):
        places = [p for p, row in enumerate(rows) if row["of"][name]]
        found = [rows[p]["of"][name] for p in places]
        y = [-p - 0.7 * ((k + 0.5) / len(names) - 0.5) for p in places]
        ends = [f["interval"] or (f["mean"], f["mean"]) for f in found]
        mark = _mark(name, k)
        colour = mark["color"]
        # A thin line for p5 to p95, with a gap after each.
        spread_x = [x for f in found for x in (f["p5"], f["p95"], None)]
        spread_y = [value for one in y for value in (one, one, None)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": spread_x,
                "y": spread_y,
                "line": {"color": colour, "width": 1},
                "opacity": 0.6,
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": str(k),
            }
        )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _named(name),
                "legendgroup": str(k),
                "x": [f["mean"] for f in found],
                "y": y,
                "text": [_named(rows[p]["system"]) for p in places],
                "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
                "marker": {
                    "color": colour,
                    "size": 8,
                    "symbol": mark["symbol"],
                },
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [e[1] - f["mean"] for e, f in zip(ends, found)],
                    "arrayminus": [f["mean"] - e[0] for e, f in zip(ends, found)],
                    "color": colour,
                    "thickness": 2.5,
                    "width": 4,
                },
            }
        )
    most = max(22 * len(rows), _MOST_HEIGHT)
    height = 90 + min(len(rows) * max(22, 14 * len(names)), most)
    figure = _figure(data, height, "score", "")
    figure["layout"]["showlegend"] = len(names) > 1
    figure["layout"]["yaxis"].update(
        tickvals=[-p for p in range(len(rows))],
        ticktext=[_named(row["system"]) for row in rows],
        range=[0.6 - len(rows), 0.6],
    )
    figure["narrow"] = [_named(row["system"], _NARROW_LENGTH) for row in rows]
    return figure


def distribution_figures(clips: Clips) -> List[Row]:
    """Histograms of the scores and labels, a figure for each scale."""
    figures = []
    names = list(clips.series)
    for group in _same_scale(clips.series):
        together = np.concatenate(list(group.values()))
        # Rice's rule, 2 n^(1/3)
        num_bins = 2 * round(max(map(len, group.values())) ** (1 / 3))
        edges = np.histogram_bin_edges(together, min(num_bins, _MOST_BINS))
        data = []
        for name, values in group.items():
            share = np.histogram(values, edges)[0] / len(values)
            mark = _mark(name, names.index(name))
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": _named(name),
                    "x": np.repeat(edges, 2)[1:-1].round(6).tolist(),
                    "y": np.repeat(100 * share, 2).round(4).tolist(),
                    "line": {n: mark[n] for n in ("color", "dash", "width")},
                    "hovertemplate": "%{x:.2f}: %{y:.1f} %<extra></extra>",
                }
            )
        only = next(iter(group)) if len(group) == 1 and len(names) > 1 else "score"
        figures.append(_figure(data, 300, shown(only), "% of the clips"))
        figures[-1]["layout"]["yaxis"]["rangemode"] = "tozero"
    return figures


def scatter_figure(clips: Clips, x: str, y: str, diagonal: bool) -> Optional[Row]:
    """Draw one of ``Clips.series`` over another: clips and means of systems.

    Args:
        clips: The clips.
        x, y: Names in ``Clips.series``.
        diagonal: Whether both are on one scale.

    Returns:
        The figure; None where no clip has both.
    """
    values = [clips.series[name] for name in (x, y)]
    both = np.flatnonzero(np.isfinite(values).all(axis=0))
    if not len(both):
        return None
    xs, ys = (v[both] for v in values)
    if len(both) > MOST_POINTS:
        number, x_edges, y_edges = np.histogram2d(xs, ys, 60)
        data = [
            {
                "type": "heatmap",
                "name": "clips",
                "x": x_edges.round(6).tolist(),
                "y": y_edges.round(6).tolist(),
                # Nothing where there is no clip.
                "z": [
                    [n or None for n in row] for row in number.T.astype(int).tolist()
                ],
                "colorscale": "Cividis",
                "reversescale": True,
                "colorbar": {"title": {"text": "clips"}, "thickness": 12},
                "hovertemplate": "%{z} clips<extra></extra>",
            }
        ]
    else:
        data = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "clips",
                "x": xs.tolist(),
                "y": ys.tolist(),
                "text": [_named(clips.ids[i]) for i in both],
                "hovertemplate": "%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
                "marker": {"color": COLOURS[5], "size": 6, "opacity": 0.6},
            }
        ]
    members: Dict[str, List[int]] = {}
    for k, i in enumerate(both):
        if clips.systems[i] is not None:
            members.setdefault(clips.systems[i], []).append(k)
    if members:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "systems",
                "x": [float(xs[index].mean()) for index in members.values()],
                "y": [float(ys[index].mean()) for index in members.values()],
                "text": [_named(system) for system in members],
                "hovertemplate": "%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
                "marker": {
                    "color": COLOURS[1],
                    "size": 9,
                    "symbol": "diamond",
                    "line": {"color": "#ffffff", "width": 1},
                },
            }
        )
    figure = _figure(data, 420, shown(x), shown(y))
    if diagonal:
        ends = float(min(xs.min(), ys.min())), float(max(xs.max(), ys.max()))
        line = {"color": "#666666", "width": 1, "dash": "dot"}
        figure["layout"]["shapes"] = [
            {"type": "line", "line": line, "layer": "below"}
            | dict(zip(("x0", "y0", "x1", "y1"), (ends[0], ends[0], ends[1], ends[1])))
        ]
    return figure
