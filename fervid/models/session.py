"""Open ONNX models with onnxruntime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import os
from typing import Literal, get_args

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

from fervid.core.errors import UsageError

Device = Literal["cpu", "cuda", "auto"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ONNX_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
    UnicodeDecodeError,  # the message of another error quotes bytes of a damaged file
)
"""What onnxruntime raises for a model that it cannot open or run."""


def check_device(device: str) -> None:
    """Check the name of a device.

    Raises:
        UsageError: It is not one of `Device`.
    """
    if device not in get_args(Device):
        raise UsageError(f"device must be one of {', '.join(get_args(Device))}, not {device!r}")


def open_session(data: bytes, threads: int, device: Device) -> onnxruntime.InferenceSession:
    """Open a model on a device.

    The CPU is tried even if CUDA is required but fails, so that a damaged model is not reported as a missing GPU.

    Args:
        data: An ONNX file.
        threads: Threads that one call of the session may use.
        device: `auto` is CUDA if it can be used, and the CPU otherwise.

    Raises:
        UsageError: `device` is `cuda`, and CUDA cannot be used.
        Exception: One of `ONNX_ERRORS`, if the model cannot be opened on the CPU either.
    """
    session, reason = (None, "") if device == "cpu" else _open_on_cuda(data, threads)
    if session is not None:
        return session
    session = _open(data, threads, CPU)
    if device == "cuda":
        raise UsageError(f"the device cuda cannot be used: {reason}, or use cpu or auto")
    return session


def _open_on_cuda(data: bytes, threads: int) -> tuple[onnxruntime.InferenceSession | None, str]:
    """Return a session on CUDA, or None and the reason why there is none."""
    if CUDA not in onnxruntime.get_available_providers():
        return None, ("this onnxruntime has no CUDA support; pip uninstall onnxruntime and pip install onnxruntime-gpu")
    try:
        session = _open(data, threads, CUDA, CPU)
    except (RuntimeError, *ONNX_ERRORS) as error:
        reason = str(error).partition("\n")[0]
    else:
        if CUDA in session.get_providers():  # onnxruntime drops a provider that it cannot load, without an error
            return session, ""
        reason = "its libraries are missing"
    return None, f"it does not start ({reason}); check that `nvidia-smi` lists a GPU, and install CUDA and cuDNN"


def _open(data: bytes, threads: int, *providers: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the CPU to the video decoder
    options.log_severity_level = 4
    # External tensors are resolved below this path instead of the current folder. Nothing can lie below it.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    # The fallback of onnxruntime prints to standard output and repeats the same attempt.
    return onnxruntime.InferenceSession(data, options, providers=list(providers), enable_fallback=0)
