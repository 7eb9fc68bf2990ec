"""Runs model.onnx with onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.errors import BundleError, MissingExtraError
from atb_fast.features.frames import MOMENTUM
from atb_fast.serving.checksums import read_checked

#: Largest model.onnx that is loaded, in bytes.
_MOST_BYTES = 256 << 20
#: The key of a tensor whose values are in another file. Protocol Buffers writes the length before a
#: string: the byte 8, or a longer encoding of 8, which ends with the byte 0.
_OTHER_FILE = re.compile(rb"[\x08\x00]location")


class OnnxModel:
    """A loaded model.onnx. Threads may share it, and it keeps working in forked processes.

    Attributes:
        path: The file.
        takes_sentiment: Whether `run` accepts sentiment as one more column after those of the first
            input. Without that column, sentiment is neutral.
    """

    def __init__(
        self,
        path: Path,
        length: int,
        columns: int,
        *,
        units: int = 1,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Load the file.

        Args:
            path: Path of model.onnx.
            length: Expected rows in a window of the first input.
            columns: Expected columns of the first input.
            units: Expected columns of the first output.
            hashes: Hashes of the files of the bundle; None if the file is not checked.

        Raises:
            BundleError: The file cannot be loaded, is damaged, or has another input or output.
            MissingExtraError: onnxruntime is not installed.
        """
        self.path = path
        # Kept in memory, so that a forked process loads the same model even if the file is deleted.
        self._content = read_checked(path, _MOST_BYTES, hashes)
        session = load_session(self._content, path)
        names = session.get_modelmeta().custom_metadata_map.get("optional_input")
        if names == MOMENTUM:
            self._content += _as_optional_input(MOMENTUM, length)
            session = load_session(self._content, path)
        # In older bundles, the optional input is in the file itself, without the property.
        optional = {value.name for value in session.get_overridable_initializers()}
        self.takes_sentiment = MOMENTUM in optional
        if names and not self.takes_sentiment:
            raise BundleError(
                f"{path}: the optional input {names!r:.80} is not a constant of the graph; retrain "
                "the model"
            )
        self._sessions = {os.getpid(): session}
        self._outputs = [output.name for output in session.get_outputs()]
        self._columns = columns
        self._input = self._check_input(length, columns)
        self._check_output(units)

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs for windows of shape (n, length, columns), shape (n, units).

        Raises:
            BundleError: onnxruntime cannot run the model.
        """
        feeds = {self._input: windows}
        if windows.shape[2:] > (self._columns,):
            feeds = {
                self._input: windows[:, :, : self._columns],
                MOMENTUM: windows[:, :, self._columns :],
            }
        try:
            return np.asarray(self._session.run(self._outputs, feeds)[0])
        except Exception as error:  # onnxruntime has no common base class
            reason = str(error).splitlines()[0]
            raise BundleError(f"{self.path}: onnxruntime cannot run the model: {reason}") from error

    @property
    def _session(self) -> Any:
        """The session of this process: a session does not survive a fork."""
        session = self._sessions.get(os.getpid())
        if session is None:
            session = load_session(self._content, self.path)
            self._sessions = {os.getpid(): session}
        return session

    def _check_input(self, length: int, columns: int) -> str:
        inputs = self._session.get_inputs()
        given = list(inputs[0].shape) if inputs else []
        fits = given[1:] == [length, columns] and not isinstance(given[0], int)
        if not fits or inputs[0].type != "tensor(float)":
            raise BundleError(
                f"{self.path}: the model takes {inputs[0].type if inputs else 'nothing'} {given}, "
                f"expected tensor(float) [batch, {length}, {columns}] according to "
                "feature_schema.json"
            )
        return str(inputs[0].name)

    def _check_output(self, units: int) -> None:
        declared = list(self._session.get_outputs()[0].shape or [])
        # Other trainers may leave the shape open; then the outputs themselves are checked.
        if len(declared) == 2 and isinstance(declared[1], int) and declared[1] != units:
            raise BundleError(
                f"{self.path}: the model returns {declared}, expected [batch, {units}] according "
                "to metadata.json"
            )


def load_session(content: bytes, path: Path) -> Any:
    """Return an onnxruntime session for the model in `content`, which was read from `path`.

    Raises:
        BundleError: onnxruntime cannot load the model, or the model stores weights in other files.
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "scoring needs onnxruntime; install with pip install 'atb-fast[predict]'"
        ) from error
    # onnxruntime would read these files, relative to the working directory. An input, a tensor or a
    # node named `location` looks the same as the key.
    if _OTHER_FILE.search(content):
        raise BundleError(
            f"{path}: the model stores weights in other files, expected one self-contained file; "
            "export it without external data, and without an input, a tensor or a node that is "
            "named location"
        )
    options = onnxruntime.SessionOptions()
    # Otherwise onnxruntime would also load its own format, which the check above does not cover.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4
    # `Bundle` uses threads for whole batches, which is faster than threads within one batch.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: onnxruntime cannot load the model: {reason}") from error


def _as_optional_input(name: str, length: int) -> bytes:
    """Return bytes that, appended to an ONNX file, make one of its constants an optional input.

    Protocol Buffers merges concatenated messages, and in ONNX a constant with the name of an input
    is the default of that input. Therefore the bytes are a model that has only this input: a
    float32 tensor of shape (sentiment_batch, length, 1). The field numbers are those of onnx.proto,
    https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
    """

    def varint(value: int) -> bytes:
        low, rest = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return varint(number << 3) + varint(content)
        return varint(number << 3 | 2) + varint(len(content)) + content

    sizes = (field(2, b"sentiment_batch"), field(1, length), field(1, 1))
    shape = b"".join(field(1, size) for size in sizes)
    tensor = field(1, 1) + field(2, shape)
    value = field(1, name.encode()) + field(2, field(1, tensor))
    return field(7, field(11, value))
