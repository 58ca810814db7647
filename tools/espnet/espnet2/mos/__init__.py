# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MOS predictors: a self-supervised upstream, a head and a list of losses."""

# Of everything that is written and read again: config.yaml, tokens.json, codebooks.
FORMAT_VERSION = 1
