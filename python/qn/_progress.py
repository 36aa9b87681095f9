"""One line on stderr, at a terminal or in a notebook, for what takes longer than two seconds."""

import sys
import time

#: Characters of the bar.
WIDTH = 20


def _shown():
    """Whether somebody sees stderr: a terminal, or a notebook, whose stderr is none."""
    if sys.stderr is None:
        return False
    if sys.stderr.isatty():
        return True
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _clock(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"


class Progress:
    """Called by the solvers as `progress(stage, done, detail)`; draws at most five times a second.

    `done` is the share that is done, with which a bar and the time that is left are drawn; of `eigsh` it is the number of
    products, and `detail` the largest residual.
    """

    def __init__(self, label, after=2.0):
        self.label, self.start, self.after = label, time.monotonic(), after
        self.drawn, self.width = 0.0, 0
        self.stage, self.begun = None, self.start
        self.shown = _shown()

    def __call__(self, stage, done, detail):
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.begun = stage, now
        if self.shown and now - self.start >= self.after and now - self.drawn >= 0.2:
            self.drawn = now
            self._write(f"{self.label}: {self._words(stage, done, detail, now - self.begun)} [{_clock(now - self.start)}]")

    @staticmethod
    def _words(stage, done, detail, seconds):
        if stage == "eigsh":
            return f"{done:.0f} products, worst residual {detail:.1e}"
        if not 0 < done <= 1:
            return stage
        full = int(WIDTH * done)
        left = f", {_clock(seconds * (1 / done - 1))} left" if seconds > 1 else ""
        return f"{stage} {100 * done:3.0f} %|{'#' * full}{'.' * (WIDTH - full)}|{left}"

    def _write(self, line):
        # Spaces and not a control sequence, which notebooks show.
        sys.stderr.write("\r" + line.ljust(self.width))
        sys.stderr.flush()
        self.width = len(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.drawn:
            self._write("")
            sys.stderr.write("\r")
            sys.stderr.flush()
