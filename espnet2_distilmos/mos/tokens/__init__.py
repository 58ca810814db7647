# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Codebooks: k-means over the hidden states of a pretrained upstream."""
