# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a training starts from: an upstream's weights, or a trained model's."""

import contextlib
from typing import Any, Dict, Iterator

from espnet2_distilmos.data.train_config import read_frontend_conf
from espnet2_distilmos.data.trained_model import open_trained_model
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.init_model import InitModel


@contextlib.contextmanager
def initial_model(config: Dict[str, Any]) -> Iterator[ESPnetMOSModel]:
    """Build the model that a training starts from.

    Args:
        config: of the training; what it takes from ``init_model`` is filled in.

    Yields:
        The model. The files of its upstream may go with the context.

    Raises:
        DataError, ValueError, OSError: One sentence on what cannot be built or loaded.
    """
    init_model = config.get("init_model")
    if init_model is None:
        yield build_model(config, load_pretrained=True)
        return
    with open_trained_model(init_model) as files:
        yield InitModel(*files, init_model).build_model(config)


def initial_frontend(config: str, train_args: str = "") -> AbsLayerFrontend:
    """Build the frontend alone, for the tools that make tokens with it.

    Args:
        config: YAML configuration of mos_train.
        train_args: options of mos_train that override it.

    Raises:
        DataError, ValueError, OSError: as :func:`initial_model`.
    """
    name, conf, init_model = read_frontend_conf(config, train_args)
    if init_model is None:
        return build_frontend(name, conf)
    with open_trained_model(init_model) as files:
        return InitModel(*files, init_model).build_frontend(name, conf)
