from __future__ import annotations

import sys

import pytest

from atb_fast.device import decide, import_tensorflow
from atb_fast.errors import MissingExtraError


def test_cpu() -> None:
    policy = decide([], mixed_precision=True, batch_size=None)
    assert (policy.dtype_policy, policy.jit, policy.batch_size) == ("float32", False, 32)
    assert "CPU" in policy.reason
    assert decide([], mixed_precision=True, batch_size=7).batch_size == 7


def test_gpu() -> None:
    policy = decide(["/gpu:0", "/gpu:1"], mixed_precision=True, batch_size=None)
    assert (policy.dtype_policy, policy.jit, policy.batch_size) == ("mixed_float16", True, 128)
    assert policy.gpus == ("/gpu:0", "/gpu:1")
    assert "--no-mixed-precision" in policy.reason
    assert decide(["/gpu:0"], mixed_precision=True, batch_size=32).batch_size == 32


def test_gpu_without_mixed_precision() -> None:
    policy = decide(["/gpu:0"], mixed_precision=False, batch_size=None)
    assert policy.dtype_policy == "float32"
    assert "switched off" in policy.reason


def test_missing_tensorflow_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'atb-fast\[train\]'"):
        import_tensorflow()
