"""The demo's input: every file of a folder, and the task for each."""

from __future__ import annotations

import os
from pathlib import Path

from pushq.errors import UsageError

PYTHON = frozenset({".py"})
BINARY = frozenset(
    """
    .a .aifc .aiff .au .bmp .bz2 .dbm .exe .gif .gz .icns .ico .o .pck .pdf .png .pyc .so .tar .wav .whl .xz .zip
    """.split()
)
SKIPPED = frozenset({"__pycache__", "site-packages", "node_modules", ".git", ".venv"})


def find_files(folder: Path) -> list[Path]:
    """Every file below a folder, except caches and installed packages. Raises UsageError when there is no file."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one with files to work on.")
    files: list[Path] = []
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED)  # os.walk follows this list
        files += filter(_is_ours, (Path(directory, name).absolute() for name in sorted(names)))
    if not files:
        raise UsageError(f"{folder} has no files; name a folder with files to work on.")
    return files


def _is_ours(file: Path) -> bool:
    """Whether `file` is a regular file with a name that JSON can hold: not every name is UTF-8."""
    return file.is_file() and not any("\ud800" <= letter <= "\udfff" for letter in str(file))


def task_for(file: Path) -> str:
    if file.suffix in PYTHON:
        return "python.tokens"
    return "file.digest" if file.suffix.lower() in BINARY else "text.lines"
