"""Whose mistake an error is, by the files that its frames lie in."""

import sysconfig
from pathlib import Path

import nas
from nas.cli.blame import users_frames, users_own
from nas.cli.task import line_for

FILES = {
    "ours": str(Path(nas.__file__).parent / "nn" / "made_up.py"),
    "users": "/home/me/net.py",
    "torchs": str(Path(sysconfig.get_path("purelib")) / "torch" / "made_up.py"),
    "pythons": str(Path(sysconfig.get_path("stdlib")) / "made_up.py"),
}


def raised(*owners, last="1 / 0"):
    """The error of a call through functions in files of these owners, the last of which divides by zero."""

    call = None
    for owner in reversed(owners):
        names = {"inner": call}
        exec(compile(f"def {owner}(): {'inner()' if call else last}", FILES[owner], "exec"), names)
        call = names[owner]
    try:
        call()
    except (ZeroDivisionError, OSError) as error:
        return error


def test_only_users_frames_are_shown():
    for owners in (
        ("ours", "users"),
        ("torchs", "ours", "users", "torchs"),
        ("ours", "users", "ours", "torchs", "pythons"),
    ):
        error = raised(*owners)
        line, *frames = users_own(error).splitlines()
        assert line == "users in net.py, line 1, failed: ZeroDivisionError: division by zero"
        assert [frame.strip() for frame in frames] == ['File "/home/me/net.py", line 1, in users']


def test_a_bug_of_ours_is_not_the_users():
    for owners in ("ours",), ("ours", "torchs"), ("ours", "users", "ours"), ("users", "ours"):
        error = raised(*owners)
        assert users_own(error) is None, owners
        assert users_frames(error) == [], owners


def test_a_file_that_users_code_misses_is_its_own():
    ours = line_for(raised("ours", last="open('gone')"), Path(), [])
    assert ours.startswith("gone: No such file or directory; make room")
    own = line_for(raised("ours", "users", last="open('gone')"), Path(), [])
    assert own.startswith("users in net.py, line 1, failed: FileNotFoundError")
