# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Models of others that have a name: fetched from the hub once, converted and kept.

The converted model lies where the hub's client keeps what libraries make of downloads
(``huggingface_hub.cached_assets_path``: ``$HF_HOME/assets``), in a directory named
after the commit that it is of. Nothing here imports torch.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import DataError

_LIBRARY = "espnet2_distilmos"


class NamedModel(NamedTuple):
    """Where a model lies on the Hugging Face hub.

    Attributes:
        repo: ``user/name``.
        backbone: folder of ``model.pth.tar`` and ``model_cfg.yaml`` there; also the
            upstream that the authors' code then takes, whatever the configuration says.
        revision: commit to fetch. None where it is not known: then the newest commit at
            the first use is fetched, and kept from then on.
        size: bytes of the checkpoint, where known.
        sha256: digest of the checkpoint, where known.
    """

    repo: str
    backbone: str
    revision: Optional[str] = None
    size: Optional[int] = None
    sha256: Optional[str] = None

    @property
    def files(self) -> Tuple[str, str]:
        """Configuration and checkpoint; the small one is the first to be fetched."""
        return f"{self.backbone}/model_cfg.yaml", f"{self.backbone}/model.pth.tar"


# The authors' repository of code names repository and files of the hub (arXiv
# 2601.13700; predict.py of github.com/BaleYang/DistilMOS), and no commit, size or
# digest; the files themselves were not at hand. So a download is compared with the
# digest that the hub states, and each tensor's name and shape with the network.
NAMED_MODELS: Dict[str, NamedModel] = {
    "distilmos-wavlm": NamedModel("BaleYang/DistilMOS", "wavlm"),
    "distilmos-w2v2": NamedModel("BaleYang/DistilMOS", "w2v2"),
}

# From checkpoint, configuration, output directory and backbone.
Converter = Callable[[str, str, str, str], Any]


def locate(name: str, convert: Converter) -> str:
    """Find the converted model of a name; fetch and convert it the first time.

    Several processes may do so at once: each converts in a directory of its own, which
    is renamed when it is whole, and the first one stays.

    Args:
        name: one of ``NAMED_MODELS``.
        convert: writes an experiment directory; raises DataError where it cannot.

    Returns:
        An experiment directory in the cache.

    Raises:
        DataError: it cannot be fetched, or what came is not the model; what is broken
            is removed, and fetched anew the next time.
        OSError: the cache cannot be written.
    """
    import huggingface_hub

    model = NAMED_MODELS[name]
    # A new format of ours needs a new conversion.
    root = huggingface_hub.cached_assets_path(
        _LIBRARY, namespace=name, subfolder=f"format{FORMAT_VERSION}"
    )
    commits = sorted(p.parent.name for p in root.glob("*/config.yaml"))
    kept = [c for c in commits if model.revision in (None, c)]
    if kept:
        return str(root / kept[0])
    paths, commit = _fetch(name, model)
    unknown = [path for path in paths if not _check(name, model, path)]
    target = root / commit
    with tempfile.TemporaryDirectory(prefix=".", dir=root) as folder:
        made = os.path.join(folder, commit)
        try:
            convert(paths[1], paths[0], made, model.backbone)
        except DataError as error:
            # What the hub's digest fits would come again as it is, and a full disk is
            # no fault of the download.
            for path in unknown:
                if path in str(error):
                    _remove(path)
            raise DataError(
                f"{name} cannot be converted into {target} (of $HF_HOME): {error}"
            ) from error
        try:
            os.rename(made, target)
        except OSError:
            # Another process was first; its conversion is the same.
            if not (target / "config.yaml").exists():
                raise
    return str(target)


def _fetch(name: str, model: NamedModel) -> Tuple[List[str], str]:
    """Files in the hub's cache, all of one commit, and the commit."""
    import huggingface_hub

    paths, revision = [], model.revision
    for file in model.files:
        try:
            path = huggingface_hub.hf_hub_download(model.repo, file, revision=revision)
        except Exception as error:  # whatever its transports raise
            reason = " ".join(str(error).split())[:200]
            pin = f" --revision {model.revision}" if model.revision else ""
            folder = f"models--{model.repo.replace('/', '--')}"
            cache = huggingface_hub.constants.HF_HUB_CACHE
            raise DataError(
                f"{name}: {file} of {model.repo} cannot be fetched from the Hugging "
                f"Face hub ({type(error).__name__}: {reason}), expected a network at "
                "the first use; by hand: where there is one, run `hf download "
                f"{model.repo} {' '.join(model.files)}{pin}`, and copy the folder "
                f"{folder} of its cache into {cache} here."
            ) from error
        paths.append(path)
        # .../snapshots/COMMIT/FILE
        revision = os.path.basename(path[: -len(file) - 1])
    return paths, str(revision)


def _check(name: str, model: NamedModel, path: str) -> bool:
    """Compare a file with what is known of it.

    Returns:
        Whether a digest was known. The hub's cache links to a file that is named after
        the hub's digest, unless its file system has no links.

    Raises:
        DataError: it is another, or broken; it was removed.
    """
    digests = [os.path.basename(os.readlink(path))] if os.path.islink(path) else []
    size = os.path.getsize(path)
    if path.endswith(model.files[1]):
        if model.sha256:
            digests.append(model.sha256)
        if model.size not in (None, size):
            _refuse(name, path, f"{size} bytes", f"{model.size}")
    digests = [d for d in digests if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", d)]
    for expected in digests:
        if len(expected) == 64:
            digest = hashlib.sha256()
        else:  # of a small file, as git has it
            digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != expected:
            _refuse(name, path, f"the digest {digest.hexdigest()}", expected)
    return bool(digests)


def _refuse(name: str, path: str, found: str, expected: str) -> None:
    _remove(path)
    raise DataError(
        f"{name}: the download {path} is broken, found {found}, expected {expected}; "
        "it was removed: run the command again to fetch it anew."
    )


def _remove(path: str) -> None:
    """Remove a file from the hub's cache, and what the links lead to."""
    places = [path]
    while os.path.islink(places[-1]):
        link = places[-1]
        places.append(os.path.join(os.path.dirname(link), os.readlink(link)))
    for place in places:
        with contextlib.suppress(OSError):
            os.remove(place)
