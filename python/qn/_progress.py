"""One line on stderr for what takes longer than two seconds."""

import sys
import time


class Progress:
    """Called by the solvers as `progress(stage, done, detail)`; draws at most five times a second."""

    def __init__(self, label, after=2.0):
        self.label, self.start, self.after = label, time.monotonic(), after
        self.drawn = 0.0
        self.shown = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, stage, done, detail):
        now = time.monotonic()
        if not self.shown or now - self.start < self.after or now - self.drawn < 0.2:
            return
        self.drawn = now
        if stage == "eigsh":
            words = f"{done:.0f} products, worst residual {detail:.1e}"
        else:
            words = f"{stage} {100 * done:.0f} %" if done else stage
        sys.stderr.write(f"\r\x1b[K{self.label}: {words}, {now - self.start:.0f} s")
        sys.stderr.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
