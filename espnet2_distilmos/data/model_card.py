# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The card of a published model: what it is, what it learnt from, its limits."""

import re
from typing import Any, Dict, List, Mapping, Optional

import yaml

from espnet2_distilmos.data.datadir import DataError

# What a recipe's model_card.yaml may state.
FIELDS = ("licence", "languages", "data", "intended_use", "limits", "contact")
_LIMITS = (
    "A score is that of listeners of the test that the model learnt from, on its scale "
    "and with its range of quality; other listening tests rank alike at best.",
    "The audio is heard at 16 kHz, one channel: what lies above 8 kHz and differences "
    "between channels are not heard.",
    "Level and silence can change a score (`tools/measure_sensitivity.py` measures how "
    "much); compare clips that were prepared alike.",
    "Single clips are uncertain; compare systems on many clips of the same sentences, "
    "with intervals (`distilmos compare`).",
    "Not for judging people: a score says nothing of a speaker's worth or health.",
)


def read_facts(path: str) -> Dict[str, Any]:
    """Read what a recipe states of its models, a mapping with keys of ``FIELDS``.

    Raises:
        DataError: It cannot be read or has another key.
    """
    try:
        with open(path, encoding="utf-8") as file:
            facts = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())}), expected YAML "
            f"with {', '.join(FIELDS)}; correct the file."
        ) from error
    unknown = (
        [k for k in facts if k not in FIELDS] if isinstance(facts, dict) else facts
    )
    if unknown or not isinstance(facts, dict):
        raise DataError(
            f"{path}: found {unknown}, expected some of {', '.join(FIELDS)}; correct "
            "the file."
        )
    return facts


def _upstream(config: Mapping[str, Any]) -> str:
    conf = config.get("frontend_conf") or {}
    network = conf.get("upstream_config") or {}
    parts = [str(conf.get("upstream") or "random weights of a bare configuration")]
    layers = network.get("num_hidden_layers") or network.get("encoder_layers")
    size = network.get("hidden_size") or network.get("d_model")
    if network.get("model_type"):
        parts.append(f"{network['model_type']}, {layers} layers of {size}")
    return "; ".join(parts)


def _tokens(config: Mapping[str, Any]) -> str:
    columns = (config.get("token_info") or {}).get("columns") or []
    if not columns:
        return "none"
    layers = ", ".join(f"{c.get('stream')} {c.get('layer')}" for c in columns)
    sizes = sorted({c.get("K") for c in columns})
    return f"K = {', '.join(map(str, sizes))} of the layers {layers}"


def model_card(
    name: str,
    config: Mapping[str, Any],
    facts: Optional[Mapping[str, Any]] = None,
    results: Optional[str] = None,
) -> str:
    """Write the card.

    Args:
        name: Of the experiment.
        config: Contents of its config.yaml.
        facts: What the recipe states, see ``FIELDS``.
        results: Contents of RESULTS.md.

    Returns:
        Markdown with the front matter that the hub reads.
    """
    facts = facts or {}
    head: Dict[str, Any] = {"library_name": "espnet"}
    if facts.get("licence"):
        head["license"] = facts["licence"]
    if facts.get("languages"):
        head["language"] = facts["languages"]
    head["tags"] = ["espnet", "espnet2_distilmos", "audio", "mean-opinion-score"]
    low, high = config.get("score_range") or (1, 5)
    losses = config.get("losses") or {}
    weights = ", ".join(
        f"{key} × {(options or {}).get('weight', 1.0):g}"
        for key, options in losses.items()
    )
    lines: List[str] = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        f"Predicts the mean opinion score (MOS) of speech on the scale {low:g} to "
        f"{high:g}, of the utterance and of each frame. Trained with "
        "espnet2_distilmos.",
        "",
        f"- upstream: {_upstream(config)} (`frontend: {config.get('frontend')}`)",
        f"- head: `{config.get('head')}`",
        f"- losses: {weights or 'none'}",
        f"- tokens: {_tokens(config)}",
        f"- seed: {config.get('seed')}",
        "",
        "## Use",
        "",
        "```sh",
        "pip install espnet2_distilmos",
        "distilmos predict DIRECTORY --model REPOSITORY_OR_ZIP --output scores.csv",
        "```",
        "",
        "```python",
        "from espnet2_distilmos import MOSPredictor",
        "",
        'predictor = MOSPredictor.from_pretrained("REPOSITORY_OR_ZIP")',
        "print(predictor(wave, fs).score)",
        "```",
        "",
    ]

    def section(title: str, text: Optional[str], default: str) -> None:
        lines.extend([f"## {title}", "", str(text or default).rstrip(), ""])

    unstated = "Not stated by who packed the model."
    section("Training data", facts.get("data"), unstated)
    section("Licence", facts.get("licence"), unstated)
    section(
        "Intended use",
        facts.get("intended_use"),
        "Ranking speech synthesis, voice conversion, codec and enhancement systems, "
        "and filtering speech data, where the audio resembles the training data.",
    )
    limits = [*([facts["limits"]] if facts.get("limits") else []), *_LIMITS]
    section("Limits", "\n".join(f"- {' '.join(x.split())}" for x in limits), "")
    if facts.get("contact"):
        section("Contact", facts["contact"], "")
    if results:
        # The card has a title of its own.
        table = results.replace("# RESULTS\n", "", 1).rstrip()
        section("Results", re.sub("^## ", "### ", table, flags=re.MULTILINE), "")
    else:
        section("Results", None, "Not measured: pack after stage 9.")
    return "\n".join(lines)
