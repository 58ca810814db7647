# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""DistilMOS for ESPnet2: MOS predictors trained with token distillation."""

__version__ = "0.1.0"
