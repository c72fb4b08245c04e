"""Model files under their users' own names: what is staged is put in place or leaves nothing behind."""

from __future__ import annotations

import dis
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from connectors.storage import model_files
from connectors.storage.model_files import model_file_writers, put_in_place

_TENSOR = ("w", (3,), "F32")
# The interpreter looks for signals after calls and jumps, never here, where no handler of the frame would see it.
_NOP = dis.opmap["NOP"]


class _Interrupted(BaseException):
    """As a signal's handler raises it: between any two instructions."""


def test_interrupted_at_any_instruction_nothing_staged_is_left(tmp_path: Path) -> None:
    """Also right after the file was made, before anything is known of it: the folder holds the model or nothing."""
    left_at, instruction, interrupted = [], 0, True
    while interrupted:
        instruction += 1
        folder = tmp_path / str(instruction)
        folder.mkdir()
        interrupted = _write_interrupted(folder / "out.safetensors", instruction)
        if {path.name for path in folder.iterdir()} - {"out.safetensors"}:
            left_at.append(instruction)
    assert instruction > 100
    assert (folder / "out.safetensors").exists()
    assert left_at == []


def _write_interrupted(target: Path, instruction: int) -> bool:
    """Whether writing got as far as to the instruction of that number, and was interrupted there."""
    left = instruction

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != model_files.__file__:
            return None
        frame.f_trace_opcodes = True
        left -= event == "opcode" and frame.f_code.co_code[frame.f_lasti] != _NOP
        if left == 0:
            sys.settrace(None)
            raise _Interrupted
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        with model_file_writers({target: [_TENSOR]}) as writers:
            writers[0].write("w", 0, np.ones(3, np.float32))
            put_in_place(writers)
    except _Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False
