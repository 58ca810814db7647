# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import warnings

import pytest
import torch

from espnet2_distilmos.mos.host import _process_settings, own_settings


def test_the_last_thread_to_leave_restores():
    """Settings of the process, in an order that no nesting has."""
    dtype = torch.get_default_dtype()
    filters = warnings.filters[:]
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = warnings.filters[:]
            _process_settings.__enter__()
            _process_settings.__enter__()
            _process_settings.__exit__()
            assert torch.get_default_dtype() == torch.float32
            with pytest.warns(UserWarning):
                warnings.warn("not raised")
            _process_settings.__exit__()
            assert torch.get_default_dtype() == torch.float64
            assert warnings.filters == before
    finally:
        torch.set_default_dtype(dtype)
    assert warnings.filters == filters


def test_an_error_restores_too():
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyError):
            with own_settings(torch.device("cpu"), grad=False):
                assert not torch.is_autocast_enabled("cpu")
                assert torch.is_inference_mode_enabled()
                raise KeyError
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="before torch 2.9"
)
def test_precisions_of_the_newer_interface():
    """Inherited ones stay inherited; torch's own answers are the reference."""

    def found():
        backends = torch.backends
        kinds = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul)
        return [kind.fp32_precision for kind in kinds]

    plain = found()
    try:
        torch.backends.fp32_precision = "bf16"
        before = found()
        assert "bf16" in before
        with own_settings(torch.device("cpu"), grad=False):
            assert set(found()) <= {"ieee", "none"}
        assert found() == before
    finally:
        torch.backends.fp32_precision = "none"
    assert found() == plain
