from __future__ import annotations

import sys
from typing import Any

import pytest

from atb_fast.config import FitOptions
from atb_fast.errors import MissingExtraError
from atb_fast.training.device import configure, decide, import_tensorflow


def test_cpu() -> None:
    policy = decide([], engine="auto", mixed_precision=True, batch_size=None)
    assert (policy.dtype_policy, policy.jit, policy.batch_size) == ("float32", False, 32)
    assert "CPU" in policy.reason
    assert decide([], engine="auto", mixed_precision=True, batch_size=7).batch_size == 7


def test_gpu() -> None:
    policy = decide(["/gpu:0", "/gpu:1"], engine="auto", mixed_precision=True, batch_size=None)
    assert (policy.dtype_policy, policy.jit, policy.batch_size) == ("mixed_float16", True, 128)
    assert policy.gpus == ("/gpu:0", "/gpu:1")
    assert "--no-mixed-precision" in policy.reason
    assert decide(["/gpu:0"], engine="auto", mixed_precision=True, batch_size=32).batch_size == 32


def test_gpu_without_mixed_precision() -> None:
    policy = decide(["/gpu:0"], engine="auto", mixed_precision=False, batch_size=None)
    assert (policy.dtype_policy, policy.jit) == ("float32", False)
    assert "--no-mixed-precision is set" in policy.reason


def test_engine() -> None:
    options: dict[str, Any] = {"mixed_precision": True, "batch_size": None}
    assert decide([], engine="auto", **options).engine == "auto"
    assert decide([], engine="keras", **options).engine == "keras"
    assert decide(["/gpu:0"], engine="auto", **options).engine == "keras"
    asked = decide(["/gpu:0"], engine="compiled", **options)
    assert (asked.engine, asked.dtype_policy) == ("compiled", "float32")
    assert "--engine keras" in asked.reason
    assert decide(["/gpu:0"], engine="exact", **options).dtype_policy == "float32"


@pytest.mark.parametrize("mixed_precision", [True, False])
def test_tensorflow_is_set_up_as_decided(
    monkeypatch: pytest.MonkeyPatch, mixed_precision: bool
) -> None:
    """A fake GPU is reported; the rest is read from TensorFlow's own configuration."""
    tf = import_tensorflow()
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu] * (kind == "GPU"))
    growing: list[object] = []
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda device, on: growing.append((device, on))
    )
    options = FitOptions(mixed_precision=mixed_precision)
    try:
        policy = configure(options)
        assert tf.config.optimizer.get_jit() == ("autoclustering" if mixed_precision else "")
    finally:
        tf.config.optimizer.set_jit(False)
    assert policy.dtype_policy == ("mixed_float16" if mixed_precision else "float32")
    assert growing == [(gpu, True)]


def test_missing_tensorflow_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'atb-fast\[train\]'"):
        import_tensorflow()
