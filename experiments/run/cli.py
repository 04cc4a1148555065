"""Shared code of the commands: how a command starts, shows errors and reads list flags."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments.run import signals
from wiseale_jax import files

# Environment variables of glibc's malloc; and M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of
# malloc.h, with the values set here.
_GLIBC = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", -3, 2**20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**20),
)
# Each start trims the cache of compiled programs to this size, which holds hundreds of programs.
_CACHE_BYTES = 2e9


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an entry point; an error that a user can fix ends in one line and exit code 2.

    If WISEALE_TRACEBACK is in the environment, ValueError, OSError and FloatingPointError are
    raised instead, to find a mistake in the code. A training that was asked to stop ends with
    `signals.EXIT_CODE`. --help shows our own flags.
    """
    _open_streams()
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(argv: list[str]) -> None:
        # Errors are raised. orbax would also log them, with tracebacks.
        logging.set_verbosity(logging.FATAL)
        _cache_compilations()
        _return_memory()
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --")
            main(argv)
        except (ValueError, OSError, FloatingPointError) as error:
            if "WISEALE_TRACEBACK" in os.environ:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = (str(error) or "MemoryError").splitlines()[0]
            print(
                f"error: not enough memory ({reason}): a smaller batch_size or latent_dim, or more "
                "microbatches, usually helps",
                file=sys.stderr,
            )
            sys.exit(2)
        except (RuntimeError, AssertionError):
            if (asked := _missing_backend()) is None:
                raise
            print(
                f"error: JAX finds no device for JAX_PLATFORMS={asked}: unset it, or install JAX "
                "for that device",
                file=sys.stderr,
            )
            sys.exit(2)
        except signals.Stopped as stopped:
            print(stopped)
            sys.exit(signals.EXIT_CODE)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; the process ends after --help, and at an invalid flag."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error} (--help lists all flags)", file=sys.stderr)
        sys.exit(2)
    except SystemExit:  # absl ends --help with exit code 1.
        sys.exit(0)


def _open_streams() -> None:
    """Opens the standard streams that are closed, and makes the outputs take every character.

    The next file that is opened would get a closed stream's number, and prints would be written
    into that file. A terminal that is not Unicode shows a replacement for a character it lacks.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free: this one.
            stream = open(number, "w" if number else "r", encoding="utf-8")
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _missing_backend() -> str | None:
    """The value of JAX_PLATFORMS, if JAX finds no device for it; else None."""
    asked = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        return asked
    return None


def _cache_compilations() -> None:
    """Keeps compiled programs on disk, so that only a first start compiles.

    The folder is `$JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/wiseale_jax`, which each start
    trims to 2 GB. If the latter cannot be written, or there is no home, nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        with contextlib.suppress(OSError, RuntimeError):
            folder = files.make_folder(Path(cache, "wiseale_jax"), "cache")
            files.trim(folder, _CACHE_BYTES)
            jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _return_memory() -> None:
    """Lets long runs give memory back, where the C library is glibc.

    Without this, each of the many threads that write checkpoints would fill an arena of its own,
    and would keep what is freed there. Two arenas are shared, and arrays of 1 MiB or more have
    pages of their own.
    """
    with contextlib.suppress(OSError, AttributeError):
        glibc = ctypes.CDLL("libc.so.6")
        for variable, parameter, value in _GLIBC:
            if variable not in os.environ:
                glibc.mallopt(parameter, value)


def define_list(name: str, default: list[str] | None, text: str) -> None:
    """Defines a flag of values separated by commas, which may be given more than once."""
    flags.DEFINE_multi_string(name, default, f"{text}, separated by commas")


def listed(name: str) -> list[str]:
    """The values of a flag that `define_list` has defined."""
    parse = flags.ListParser().parse
    return [value for given in flags.FLAGS[name].value or () for value in parse(given)]


def listed_counts(name: str, least: int = 1) -> list[int]:
    """The values of a flag that `define_list` has defined, as whole numbers.

    Raises:
      ValueError: a value is no whole number, or is less than `least`.
    """
    counts = []
    for count in listed(name):
        if not count.isdecimal() or int(count) < least:
            raise ValueError(f"{name} must be whole numbers, at least {least}, got {count!r}")
        counts.append(int(count))
    return counts


def refuse_given(names: Iterable[str], reason: str) -> None:
    """Refuses flags that have no use here.

    Raises:
      ValueError: one of the flags is given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} {reason}")
