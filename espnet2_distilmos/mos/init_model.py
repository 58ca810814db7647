# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Start a training from a trained model instead of an upstream."""

import inspect
import logging
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

import torch

from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    build_frontend,
    build_model,
    check_tensor,
    model_states,
    read_config,
    token_columns_of,
)
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import TOKEN_PREDICTORS

_FRONTEND = "frontend."
_HEAD = "head."
# Of a loss with parameters: those of another training may be left behind.
_LOSSES = "losses."
_PREDICTORS = f"{_HEAD}{TOKEN_PREDICTORS}."
_CONDITION = "condition."
_MEND = "state no other network than the model's in frontend_conf and head_conf"


class InitModel:
    """A trained model that another training starts from.

    What the network is comes from the model, how it is trained from the configuration:

    * the frontend, its configuration and weights are the model's; options that say how
      it is trained (``freeze``, dropout, ...) are overridden by those stated, and any
      other must be stated as the model has it, or not at all;
    * adapters (``lora``) are the model's too, or new where it has none;
    * so is the head, unless the configuration states another one, which is new then;
    * a token predictor is the model's where it predicts the same column of the same
      codebooks, else it is new: the numbers of other clusters mean other sounds;
    * the listeners and corpora are those of the training; the embeddings of those that
      the model knows, too, start from the model's.

    Args:
        train_config: ``config.yaml`` of the model.
        model_file: its weights.
        name: what the user calls it, for the sentences.

    Raises:
        ValueError: a file is none of a trained model.
        OSError: a file cannot be opened.
    """

    def __init__(self, train_config: str, model_file: str, name: str):
        self.config = read_config(train_config)
        self.states = model_states(model_file)
        self.name = name
        self.model_file = os.path.basename(model_file)

    def frontend_settings(
        self, frontend: Optional[str], conf: Optional[Mapping[str, Any]]
    ) -> Tuple[str, Dict[str, Any]]:
        """Name and options of the frontend to train.

        Args:
            frontend: the one that the training configuration states, or None.
            conf: the options that it states.

        Raises:
            ValueError: it states another network than the model's.
        """
        name = self.config["frontend"]
        if frontend not in (None, name):
            raise ValueError(
                f"found the frontend {frontend}, but {self.name} has {name}: leave "
                "frontend and frontend_conf out to start from that model"
            )
        given = self.config["frontend_conf"]
        return name, self._merged("frontend_conf", FRONTENDS[name], given, conf)

    def head_settings(
        self, head: Optional[str], conf: Optional[Mapping[str, Any]]
    ) -> Tuple[str, Dict[str, Any]]:
        """Name and options of the head to train; see :meth:`frontend_settings`."""
        name = self.config["head"]
        if head not in (None, name):
            return head, dict(conf or {})
        given = self.config.get("head_conf") or {}
        return name, self._merged("head_conf", HEADS[name], given, conf)

    def _merged(self, where, cls, given, stated) -> Dict[str, Any]:
        parameters = inspect.signature(cls).parameters.values()
        defaults = {p.name: p.default for p in parameters}
        # An option that the class does not know is refused when it is built.
        unknown = {k: v for k, v in (stated or {}).items() if k not in defaults}
        known = {k: v for k, v in (stated or {}).items() if k in defaults}
        changed = self._changes(
            where, known, {**defaults, **given}, cls.training_options
        )
        return {**given, **changed, **unknown}

    def _changes(self, where, stated, given, free) -> Dict[str, Any]:
        """The stated options that may differ from the given ones and do."""
        changes = {}
        for key, value in stated.items():
            adds_adapters = key == "lora" and given.get(key) is None
            if key in free or adds_adapters or "drop" in key or key[:5] == "mask_":
                changes[key] = value
            elif isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
                # Fields that the model's own configuration lacks say nothing of it.
                both = {k: v for k, v in value.items() if k in given[key]}
                inner = self._changes(f"{where}.{key}", both, given[key], ())
                changes[key] = {**given[key], **inner}
            elif not _agree(value, given.get(key)):
                raise ValueError(
                    f"found {where}.{key}={value!r}, but {self.name} has "
                    f"{given.get(key)!r}: leave it out to start from that model"
                )
        return changes

    def build_frontend(
        self, frontend: Optional[str], conf: Optional[Mapping[str, Any]]
    ) -> AbsLayerFrontend:
        """The frontend that training starts from, for the token tools.

        Args, Raises: as :meth:`frontend_settings`.
        """
        name, merged = self.frontend_settings(frontend, conf)
        network = build_frontend(name, merged, load_pretrained=False)
        used = self._load(network, lambda key: self._in_frontend(_FRONTEND + key))
        self._refuse_rest([k for k in self.states if k.startswith(_FRONTEND)], used)
        logging.info(f"The frontend starts from {self.name} ({self.model_file})")
        return network

    def build_model(self, config: Dict[str, Any]) -> ESPnetMOSModel:
        """The model that training starts from.

        Args:
            config: of the training, as in :func:`~espnet2_distilmos.mos.build.
                build_model`; ``frontend`` and ``head`` are None where it states none.
                Gets the names and options that are the model's.

        Raises:
            ValueError: the configuration states another network than the model's, or
                a tensor does not fit.
        """
        frontend, head = config.get("frontend"), config.get("head")
        config["frontend"], config["frontend_conf"] = self.frontend_settings(
            frontend, config.get("frontend_conf")
        )
        config["head"], config["head_conf"] = self.head_settings(
            head, config.get("head_conf")
        )
        model = build_model(config, load_pretrained=False)
        same_head = config["head"] == self.config["head"]
        predictors = self._predictors(config) if same_head else {}

        def origin(key: str) -> Optional[str]:
            if key.startswith(_PREDICTORS):
                index, rest = key[len(_PREDICTORS) :].split(".", 1)
                old = predictors.get(int(index))
                return None if old is None else f"{_PREDICTORS}{old}.{rest}"
            if key.startswith(_HEAD):
                return key if same_head else None
            if key.startswith(_LOSSES):
                return key if key in self.states else None
            if key.startswith(_CONDITION):
                return None
            return self._in_frontend(key)

        used = self._load(model, origin)
        left = {k for k in self.states if k not in used and k.startswith(_HEAD)}
        if same_head:
            left = {k for k in left if k.startswith(_PREDICTORS)}
        left |= {k for k in self.states if k not in used and k.startswith(_LOSSES)}
        left |= {k for k in self.states if k.startswith(_CONDITION)}
        self._refuse_rest(self.states, used | left)
        if same_head:
            left -= self._take_condition(model)
        new = {key for key in model.state_dict() if origin(key) is None}
        self._tell(config, same_head, new, left)
        return model

    def _in_frontend(self, key: str) -> Optional[str]:
        """The model's name of a tensor, None for one of an adapter that is new.

        peft moves the weights of what it adapts to ``base_layer``, beside ``lora_A``.
        """
        if key in self.states:
            return key
        plain = key.replace(".base_layer.", ".")
        if plain in self.states:
            return plain
        is_new = ".lora_" in key and self.config["frontend_conf"].get("lora") is None
        return None if is_new else key

    def _predictors(self, config: Mapping[str, Any]) -> Dict[int, int]:
        """Index of each token predictor to that of the model's own, where it has it."""
        infos = [c.get("token_info") or {} for c in (self.config, config)]
        codebooks = [info.get("codebook_fingerprint") for info in infos]
        old, new = (token_columns_of(info) for info in infos)
        if codebooks[0] != codebooks[1]:
            return {}
        return {i: old.index(column) for i, column in enumerate(new) if column in old}

    def _load(
        self, module: torch.nn.Module, origin: Callable[[str], Optional[str]]
    ) -> Set[str]:
        """Load all tensors that have an origin; returns the names that were used."""
        states = dict(module.state_dict())
        used = set()
        where = f"{self.name} ({self.model_file})"
        for key, value in states.items():
            name = origin(key)
            if name is not None:
                check_tensor(self.states, name, value, where, _MEND)
                states[key] = self.states[name]
                used.add(name)
        module.load_state_dict(states, strict=True)
        return used

    def _take_condition(self, model: ESPnetMOSModel) -> Set[str]:
        """Start from the model's listeners and corpora; returns the tensors used."""
        used = set()
        for kind in ("listener", "corpus"):
            key, names = f"{_CONDITION}{kind}", self.config.get(f"{kind}_list")
            own = getattr(model.condition, kind, None)
            if own is None or key not in self.states or not names:
                continue
            where = f"{self.name} ({self.model_file})"
            wanted = own.new_zeros(len(names), own.size(1))
            check_tensor(self.states, key, wanted, where, _MEND)
            count = model.condition.take_rows(kind, names, self.states[key])
            logging.info(
                f"{count} of {len(own)} rows of {key} start from {self.name}, which "
                f"has {len(names)}"
            )
            used.add(key)
        return used

    def _refuse_rest(self, states, known: Set[str]) -> None:
        rest = [key for key in states if key not in known]
        if rest:
            raise ValueError(
                f"{self.name} ({self.model_file}): found {len(rest)} tensors that the "
                f"configuration has no place for, the first is {rest[0]}: {_MEND}"
            )

    def _tell(self, config, same_head, new: Set[str], left: Set[str]) -> None:
        """Say in the log what came from where; each tensor is in a part named."""
        free = FRONTENDS[config["frontend"]].training_options
        options = {k: v for k, v in config["frontend_conf"].items() if k in free}
        text = ", ".join(f"{key}={value}" for key, value in options.items())
        logging.info(
            f"Start from {self.name} ({self.model_file}): frontend "
            f"{config['frontend']} ({text}), "
            + (f"head {config['head']}" if same_head else "")
            + ("" if same_head else f"not its head: {config['head']} is new")
        )
        for what, keys in (("new", new), ("left in the model", left)):
            if keys:
                logging.info(f"Deliberately {what}: {', '.join(_parts(keys))}")
        ranges = [list(c.get("score_range") or []) for c in (self.config, config)]
        if same_head and ranges[0] != ranges[1]:
            logging.warning(
                f"The head of {self.name} scores on the scale {ranges[0]}, the labels "
                f"are on {ranges[1]}: training begins far from them"
            )


def _agree(stated: Any, given: Any) -> bool:
    """True if a stated option says what is given; None says nothing."""
    if stated is None:
        return True
    if isinstance(stated, str) and isinstance(given, str):
        # A packed model has lost the folders of its upstream.
        return _last(stated) == _last(given)
    if isinstance(stated, (list, tuple)) and isinstance(given, (list, tuple)):
        return list(stated) == list(given)
    return stated == given


def _last(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def _parts(keys: Set[str]) -> List[str]:
    """Modules that hold the tensors, with their numbers: all of each is meant."""
    counts: Dict[str, int] = {}
    for key in sorted(keys):
        depth = 3 if key.startswith(_PREDICTORS) else 2
        part = ".".join(key.split(".")[:depth])
        counts[part] = counts.get(part, 0) + 1
    return [f"{part} ({count} tensors)" for part, count in counts.items()]
