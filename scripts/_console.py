"""What the scripts share on the console: a quiet start, one-line errors, checked numbers."""

import argparse
import contextlib
import logging
import math
import os
import re
import sys
import tempfile
import warnings


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line: the usage is in `--help`."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


class Failure(Exception):
    """What ends a script with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


def run(main) -> int:
    """Call `main()`; turn what users can mend into one line on stderr and an exit code.

    2: wrong usage or input, 1: the run failed, 130: stopped by Ctrl-C.
    """
    try:
        return main()
    except Failure as failure:
        code, message = failure.code, str(failure)
    except (ValueError, OSError) as error:
        code, message = 2, str(error)
    except (ImportError, MemoryError) as error:
        code, message = 1, f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        code, message = 130, "Stopped. Nothing was changed after the last line above."
    print(
        f"error: {' '.join(message.split())}" if code != 130 else message,
        file=sys.stderr,
    )
    return code


def reason(error: Exception) -> str:
    """One line of an error; of what TensorFlow hands on from Python, the Python error's own message."""
    text = str(error)
    found = re.search(r"\bValueError: (.+)", text)
    if found and type(error).__module__.startswith("tensorflow"):
        return found[1]
    return f"{type(error).__name__}: {text}"


def write_lines(path, lines) -> None:
    """Write lines that hold the names of files, which need not be valid in any encoding."""
    text = "".join(f"{line}\n" for line in lines)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def read_lines(path) -> list[str]:
    """What `write_lines` wrote."""
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def note(text: str) -> None:
    """Say something that is not the result: on stderr."""
    print(text, file=sys.stderr, flush=True)


def show_measures(measures: dict) -> None:
    """Print the table of accuracies, or that there were no labels to measure with."""
    from rich.console import Console

    from keras_contrastive import report

    if measures:
        Console(width=None if sys.stdout.isatty() else 110).print(
            report.table(measures)
        )
    else:
        print(
            "No labels, so nothing was measured. Look at neighbours.png: are neighbours alike?"
        )


def import_quietly() -> None:
    """Import the library without TensorFlow's remarks on the machine; an error shows what was held back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _stderr_held_back():
        import tensorflow as tf

        import keras_contrastive  # noqa: F401

        # The first operation, the first compilation and the first half make remarks of their own.
        tf.function(tf.negative, jit_compile=True)(tf.zeros([])).numpy()
        tf.constant(0.0, tf.float16)
    warnings.showwarning = _one_line_warning
    logging.getLogger("tensorflow").addFilter(_is_not_about_tracing)


def _is_not_about_tracing(record: logging.LogRecord) -> bool:
    """Each of several models is traced once, which TensorFlow takes for one model traced too often."""
    return "tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def _stderr_held_back():
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _one_line_warning(message, category, filename, lineno, file=None, line=None):
    if issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
        return  # for the developers of what we stand on
    print(f"note: {' '.join(str(message).split())}", file=sys.stderr)


def positive(text: str) -> float:
    """A finite number > 0, for `type=`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, not {text!r}")
    return value


def not_negative(text: str) -> float:
    """A finite number >= 0, for `type=`."""
    return 0.0 if text.strip() in ("0", "0.0") else positive(text)


def integer(minimum: int):
    """An integer >= `minimum`, for `type=`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"must be an integer >= {minimum}, not {text!r}"
            )
        return value

    return parse
