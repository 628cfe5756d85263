"""The files of an exported network: how each is written, and how it is run."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nas.errors import ExportError
from nas.export.compare import Network

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CHATTY = ("torch.export", "torch.onnx", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def need_onnx() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        ExportError: at least one is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        rule = f"needs {', '.join(missing)}, which cannot be found"
        raise ExportError("onnx", "true", rule, f"pip install {' '.join(PACKAGES)}")


def write_weights(path: Path, plain: nn.Module, network: dict[str, Any]) -> None:
    """Write the state dict as safetensors, with the description ``network`` in its header.

    Raises:
        ExportError: the state dict contains something other than tensors.
    """
    state = plain.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            rule = f"{name} of its state is a {type(value).__name__} and not a tensor"
            raise ExportError("space", network["space"]["name"], rule, "keep it in a buffer")
    # Copies, because safetensors stores neither shared tensors nor memory formats.
    tensors = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    path.write_bytes(safetensors.torch.save(tensors, {"format": "pt", "network": json.dumps(network)}))


def make_program(plain: nn.Module, image: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> ExportedProgram:
    """The network as a program with a free batch size, traced on black images of the shape ``(C, H, W)``.

    Raises:
        ExportError: torch.export cannot trace the network.
    """
    example = torch.zeros(2, *image, dtype=dtype)  # with a batch of 1, torch.export would fix the size
    with _exporter("program", "torch.export cannot follow", "program=false leaves the file out, and ONNX with it"):
        program = torch.export.export(plain, (example,), dynamic_shapes=({0: Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


def write_program(path: Path, program: ExportedProgram, metadata: dict[str, str]) -> None:
    """Write the program, with ``metadata`` as extra files; :func:`run_program` and ``torch.export.load`` read it."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files=metadata)
    path.write_bytes(buffer.getbuffer())


def run_program(path: Path) -> Network:
    """Load the program in ``path``, ready to run."""
    with _quiet():
        module: nn.Module = torch.export.load(path).module()
    return module


def write_onnx(path: Path, program: ExportedProgram, metadata: dict[str, str]) -> None:
    """Write the program as ONNX, with the input ``pictures``, the output ``logits`` and ``metadata`` as properties.

    Raises:
        ExportError: an operation has no counterpart in ONNX.
    """
    names: dict[str, Any] = {"input_names": ["pictures"], "output_names": ["logits"]}
    with _exporter("onnx", "torch.onnx cannot translate", "onnx=false leaves it out"):
        translated = torch.onnx.export(program, **names, dynamo=True, verbose=False)
    assert translated is not None, "torch.onnx.export returns a program unless it writes a file"
    model = translated.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # names of torch's own operations, for debugging
    del model.graph.metadata_props[:], model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    path.write_bytes(model.SerializeToString())


def run_onnx(path: Path) -> Network:
    """Load the ONNX file in ``path``, ready to run in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"pictures": x.contiguous().numpy()})[0])


@contextmanager
def _exporter(key: str, cannot: str, remedy: str) -> Iterator[None]:
    """Run one of torch's exporters quietly; its errors become an :class:`ExportError`."""
    try:
        with _quiet(), redirect_stderr(io.StringIO()):  # where torch prints graphs that it cannot follow
            yield
    except (RuntimeError, TypeError, ValueError) as error:
        rule = f"{cannot} the network ({' '.join(str(error).split()[:40])} ...)"
        raise ExportError(key, "true", rule, remedy) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings and log messages of torch's exporters; errors still show."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
