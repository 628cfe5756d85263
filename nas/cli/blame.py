"""Whose mistake an error is: what of its traceback lies in the user's own files, a network's for example."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import nas


def users_own(error: BaseException | None) -> str | None:
    """Which of the user's functions failed, in one line, and under it the user's frames alone.

    None for a bug of ours: what has no frame in a user's file, or was raised by this package itself.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if error is None or not (frames := _frames(error)):
        return None
    frame, line = frames[-1]
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # Python 3.10 has no qualified name
    message = " ".join(f"{type(error).__name__}: {error}".split())
    head = f"{name} in {Path(frame.f_code.co_filename).name}, line {line}, failed: {message}"
    return "\n".join([head, *users_frames(error)])


def users_frames(error: BaseException | None) -> list[str]:
    """The user's frames as Python prints them, outermost first; none for a bug of ours."""
    shown = traceback.StackSummary.extract(_frames(error)) if error is not None else []
    return "".join(traceback.format_list(shown)).splitlines()


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """The frames in the user's files below the first of ours; none if the last of all is ours."""
    walked = list(traceback.walk_tb(error.__traceback__))
    files = [frame.f_code.co_filename for frame, _ in walked]
    ours = [Path(nas.__file__).parent in Path(file).parents for file in files]
    if not any(ours) or ours[-1]:
        return []
    first = ours.index(True)
    return [walked[i] for i in range(first, len(walked)) if not ours[i] and _is_users(files[i])]


def _is_users(file: str) -> bool:
    """Whether a file is neither part of this package, nor of an installed one, nor of Python."""
    path = Path(file)
    libraries = Path(nas.__file__).parent, Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"} & {*path.parts}
    return not (file.startswith("<") or installed or {*libraries} & {*path.parents})
