#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Pack a trained model, unpack one, or upload a packed one (stages 10 and 11)."""

import argparse
import contextlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePath
from typing import Any, List, Mapping, Optional, Sequence

import yaml
from espnet2.main_funcs.pack_funcs import pack

from espnet2_distilmos.cli import run
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.neighbours import DATASTORE
from espnet2_distilmos.evaluation.trust import CALIBRATION

# What a recipe's model_card.yaml may state.
FIELDS = ("licence", "languages", "data", "intended_use", "limits", "contact")
# The folders of an absolute path, or of one that leads out of the recipe, in a text.
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~[\w.-]*|\.\.)?/(?:[^\s/,:;'\"`|()<>]+/)+")

CARD = """---
{{ card_data }}
---

# {{ name }}

Predicts the mean opinion score (MOS) of speech, of the utterance and of each frame, on
the scale {{ scale }}. Trained with espnet2_distilmos.

- upstream: {{ upstream }} (`frontend: {{ config.frontend }}`)
- head: `{{ config.head }}`
- losses: {{ losses }}
- tokens: {{ tokens }}
- seed: {{ config.seed }}

## Use

```sh
pip install espnet2_distilmos
distilmos predict DIRECTORY --model REPOSITORY_OR_ZIP --output scores.csv
```

```python
from espnet2_distilmos import MOSPredictor

predictor = MOSPredictor.from_pretrained("REPOSITORY_OR_ZIP")
print(predictor(wave, fs).score)
```

## Training data

{{ data or "Not stated by who packed the model." }}

## Licence

{{ licence or "Not stated by who packed the model." }}

## Intended use

{{ intended_use or "Ranking speech synthesis, voice conversion, codec and enhancement
systems, and filtering speech data, where the audio resembles the training data." }}

## Limits

{% if limits %}- {{ limits }}
{% endif -%}
- A score is that of listeners of the test that the model learnt from, on its scale and
  with its range of quality; other listening tests rank alike at best.
- The model takes 16 kHz audio with one channel: what lies above 8 kHz and differences
  between channels do not count.
- Level and silence can change a score (`tools/measure_sensitivity.py` measures how
  much); compare clips that were prepared alike.
- Single clips are uncertain; compare systems on many clips of the same sentences, with
  intervals (`distilmos compare`).
- Not for judging people: a score says nothing of a speaker's worth or health.
{% if contact %}
## Contact

{{ contact }}
{% endif %}
## Results

{{ results or "Not measured: pack after stage 9." }}
"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Pack a trained model into a .zip that ESPnet's tools read; or, "
        "with --unpack or --upload, use a packed one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--train_config", help="config.yaml of the experiment.")
    parser.add_argument("--model_file", help="Weights of the experiment.")
    parser.add_argument("--outpath", help="The .zip to write.")
    parser.add_argument(
        "--results", help="Directory whose RESULTS.md, results.json and images go in."
    )
    parser.add_argument(
        "--card",
        help=f"YAML that states {', '.join(FIELDS)}, for the README of the model.",
    )
    parser.add_argument(
        "--unpack", help="A packed .zip, or 'user/name' of the Hugging Face hub."
    )
    parser.add_argument("--output_dir", help="Where --unpack writes.")
    parser.add_argument("--upload", help="A packed .zip.")
    parser.add_argument("--hf_repo", help="'user/name' on the hub, for --upload.")
    return parser


def model_card(
    name: str, config: Mapping[str, Any], facts: Mapping[str, Any], results: str
) -> str:
    """Write the card: what the model is, what it learnt from, its limits.

    Args:
        name: Of the experiment.
        config: Contents of its config.yaml.
        facts: What the recipe states, see ``FIELDS``.
        results: Contents of RESULTS.md, or "".

    Returns:
        Markdown with the front matter that the hub reads.
    """
    from huggingface_hub import ModelCard, ModelCardData

    conf = config.get("frontend_conf") or {}
    network = conf.get("upstream_config") or {}
    upstream = str(conf.get("upstream") or "random weights of a bare configuration")
    if network.get("model_type"):
        layers = network.get("num_hidden_layers") or network.get("encoder_layers")
        size = network.get("hidden_size") or network.get("d_model")
        if conf.get("num_layers"):
            layers = f"the first {conf['num_layers']} of {layers}"
        upstream += f"; {network['model_type']}, {layers} layers of {size}"
        if conf.get("pruned"):
            heads = sum(len(heads) for heads in conf["pruned"]["heads"])
            ffn = sum(conf["pruned"]["ffn"])
            upstream += f", pruned to {heads} attention heads and {ffn} inner units"
    elif config.get("frontend") == "spec_cnn":
        layers, size = conf.get("num_layers"), conf.get("hidden_size")
        upstream = f"none; spec_cnn trained from scratch, {layers} layers of {size}"
    losses = [
        f"{key} × {(options or {}).get('weight', 1.0):g}"
        for key, options in (config.get("losses") or {}).items()
    ]
    tokens = [
        f"{c['stream']} {c['layer']} (K = {c['K']})"
        for c in (config.get("token_info") or {}).get("columns") or []
    ]
    card = ModelCard.from_template(
        ModelCardData(
            library_name="espnet",
            license=facts.get("licence"),
            language=facts.get("languages"),
            tags=["espnet", "espnet2_distilmos", "audio", "mean-opinion-score"],
        ),
        template_str=CARD,
        name=name,
        config=config,
        scale=" to ".join(f"{x:g}" for x in config.get("score_range") or (1, 5)),
        upstream=upstream,
        losses=", ".join(losses) or "none",
        tokens=", ".join(tokens) or "none",
        # The card has a title of its own.
        results=re.sub(
            "^## ", "### ", results.replace("# RESULTS\n", "", 1), flags=re.M
        ),
        **{key: value for key, value in facts.items() if key != "languages"},
    )
    return str(card)


def public_config(config: Any) -> Any:
    """A configuration without what it tells of the trainer's machine.

    Of an absolute path, and of one that leads out of the recipe, the last name stays.
    Hosts and accounts go, and listeners, who may be people with names, get numbers.
    """
    if isinstance(config, dict):
        public = {
            key: public_config(value)
            for key, value in config.items()
            if not str(key).startswith(("dist_", "wandb_"))
        }
        if isinstance(config.get("listener_list"), list):
            count = len(config["listener_list"])
            public["listener_list"] = [f"unnamed_{n}" for n in range(count)]
        return public
    if isinstance(config, (list, tuple)):
        return [public_config(value) for value in config]
    if isinstance(config, str):
        path = PurePath(config)
        if path.is_absolute() or config.startswith("~") or ".." in path.parts:
            return path.name
    return config


def pack_model(
    train_config: str,
    model_file: str,
    outpath: str,
    results: Optional[str] = None,
    card: Optional[str] = None,
) -> None:
    """Write a packed model, whole or not at all.

    The archive holds the folder ``exp/<experiment>``: the configuration without the
    trainer's own directories, the weights, the upstream's files if it cannot be rebuilt
    without them, the calibration, the datastore, a README and the results.

    Args:
        train_config: config.yaml that the training wrote.
        model_file: Weights.
        outpath: The .zip to write.
        results: Directory whose RESULTS.md, results.json and images go in as well.
        card: YAML of what the README states beside, see ``FIELDS``.

    Raises:
        DataError, OSError: A file is missing or the output cannot be written.
    """
    from espnet2_distilmos.mos.checkpoint import UPSTREAM_FILES, read_yaml

    if not os.path.isfile(model_file):
        raise DataError(f"{model_file} is not there, expected weights; run stage 7.")
    if not outpath.endswith(".zip"):
        raise DataError(f"--outpath {outpath} does not end in .zip; rename it.")
    config = read_yaml(train_config, "the config.yaml of a training; run stage 7")
    facts = read_yaml(card, "what the recipe states of its models") if card else {}
    unknown = [key for key in facts if key not in FIELDS]
    if unknown:
        raise DataError(
            f"{card}: found {', '.join(unknown)}, expected some of "
            f"{', '.join(FIELDS)}; correct the file."
        )
    experiment = Path(train_config).absolute().parent
    upstream_files = experiment / UPSTREAM_FILES
    is_named = UPSTREAM_FILES in str(config.get("frontend_conf"))
    if is_named and not upstream_files.exists():
        raise DataError(
            f"{upstream_files} is not there, expected it since {train_config} names "
            "it; copy the experiment as a whole, or run stage 7 again."
        )
    # What a link points to: the packed model says which epoch it is of.
    weights = Path(model_file).resolve()
    sources = [weights, upstream_files]
    sources += [experiment / name for name in _fitted(train_config, model_file)]
    if results:
        names = ("RESULTS.md", "results.json", "images")
        sources += [Path(results, name) for name in names]

    outpath = os.path.abspath(outpath)
    os.makedirs(os.path.dirname(outpath), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(outpath)) as top:
        folder = Path(top, "exp", experiment.name)
        folder.mkdir(parents=True)
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, folder / source.name)
            elif source.exists():
                shutil.copyfile(source, folder / source.name)
        table = folder / "RESULTS.md"
        text = table.read_text(encoding="utf-8") if table.exists() else ""
        text = model_card(experiment.name, config, facts, text)
        (folder / "README.md").write_text(text, encoding="utf-8")
        for path in (folder / n for n in ("README.md", "RESULTS.md", "results.json")):
            if path.exists():
                text = _FOLDERS.sub("", path.read_text(encoding="utf-8"))
                path.write_text(text, encoding="utf-8")
        text = yaml.safe_dump(public_config(config), sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        # ESPnet names the files as they are seen from the working directory.
        before = os.getcwd()
        os.chdir(top)
        try:
            folder = Path("exp", experiment.name)
            main_files = [folder / weights.name, folder / "config.yaml"]
            with contextlib.redirect_stdout(None):  # a line a file
                pack(
                    files={"model_file": main_files[0]},
                    yaml_files={"train_config": main_files[1]},
                    option=[p for p in sorted(folder.iterdir()) if p not in main_files],
                    outpath="packed.zip",
                )
        finally:
            os.chdir(before)
        os.replace(os.path.join(top, "packed.zip"), outpath)
    print(f"The packed model is {outpath}", file=sys.stderr)


def _fitted(train_config: str, model_file: str) -> List[str]:
    """Calibration and datastore in the experiment, if of the model that is packed."""
    folder = os.path.dirname(train_config)
    there = [
        name
        for name in (CALIBRATION, DATASTORE)
        if os.path.exists(os.path.join(folder, name))
    ]
    if not there:
        return []
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor(train_config, model_file)
    fitted = []
    for name in there:
        try:
            if name == DATASTORE:
                predictor.read_datastore(os.path.join(folder, name))
            elif predictor.confidence.calibration is None:
                raise ValueError(predictor.confidence.missing)
            fitted.append(name)
        except ValueError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return fitted


def unpack_model(source: str, output_dir: str) -> str:
    """Unpack a model so that ``output_dir`` looks like an experiment.

    Args:
        source: What ``open_trained_model`` takes.
        output_dir: Gets ``config.yaml``, the model file and, where the model has them,
            ``upstream_files``, its calibration and its datastore as links; they and
            what they point to may be moved or copied together.

    Returns:
        The model file's name in ``output_dir``.

    Raises:
        DataError: There is no such model.
    """
    from espnet2_distilmos.mos import checkpoint

    if os.path.isfile(source):
        unpacked = os.path.join(output_dir, "unpacked")
        model = checkpoint.unpack_zip(source, unpacked)
    else:
        with checkpoint.open_trained_model(source) as model:
            pass
    os.makedirs(output_dir, exist_ok=True)
    name = os.path.basename(model.model_file)
    links = {"config.yaml": model.train_config, name: model.model_file}
    for extra in (checkpoint.UPSTREAM_FILES, CALIBRATION, DATASTORE):
        links[extra] = os.path.join(os.path.dirname(model.model_file), extra)
    for link, target in links.items():
        path = os.path.join(output_dir, link)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        if os.path.exists(target):
            os.symlink(os.path.relpath(target, output_dir), path)
    return name


def upload_model(packed: str, hf_repo: str) -> None:
    """Upload a packed model's files to a repository on the hub.

    Raises:
        DataError: No one is logged in.
        OSError, ValueError: The hub refuses.
    """
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise DataError(
            "no one is logged in to the hub; run 'hf auth login' and stage 11 again."
        )
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        # The hub shows the README of the top folder.
        for readme in Path(folder).glob("exp/*/README.md"):
            shutil.copy(readme, folder)
        api = huggingface_hub.HfApi()
        api.create_repo(hf_repo, exist_ok=True)
        api.upload_folder(repo_id=hf_repo, folder_path=folder)


def main(cmd: Optional[Sequence[str]] = None) -> int:
    parser = get_parser()
    args = parser.parse_args(cmd)
    needed = ["train_config", "model_file", "outpath"]
    if args.upload or args.unpack:
        needed = ["hf_repo"] if args.upload else ["output_dir"]
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing")

    def work() -> dict:
        if args.upload:
            upload_model(args.upload, args.hf_repo)
        elif args.unpack:
            print(unpack_model(args.unpack, args.output_dir))
        else:
            files = (args.train_config, args.model_file, args.outpath)
            pack_model(*files, args.results, args.card)
        return {}

    return run(work, "")


if __name__ == "__main__":
    sys.exit(main())
