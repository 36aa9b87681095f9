//! How whoever has started a long computation follows it and stops it.

use std::cell::Cell;
use std::fmt::Arguments;

/// What a sentence said along the way is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of interest while it happens, as the test loss at the end of an epoch: it is in a log too.
    Passing,
    /// Explains a result or its time.
    Detail,
    /// What one wants to know.
    Note,
    /// May make a result worthless.
    Warning,
}

/// Who follows a computation. Every method may be left out.
pub trait Observer {
    /// `done` of `of` pieces of a stage are done; `of` is 0 where it is not known. Another name begins another stage.
    fn progress(&self, _stage: &str, _done: u64, _of: u64) {}

    /// What there is to see of the stage under way, in a few words that take the place of the last ones.
    fn status(&self, _words: Arguments<'_>) {}

    /// A sentence.
    fn say(&self, _level: Level, _words: Arguments<'_>) {}

    /// Whether to stop as soon as what is done can be kept.
    fn should_stop(&self) -> bool {
        false
    }
}

/// Nobody follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Passes the wish to stop on, and nothing else: for a piece of a computation whose own progress is not shown.
pub struct StopOnly<'a>(pub &'a dyn Observer);

impl Observer for StopOnly<'_> {
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }
}

/// A stage under way, which may be moved on from several places.
pub struct Stage<'a> {
    observer: &'a dyn Observer,
    name: &'static str,
    of: u64,
    done: Cell<u64>,
}

impl<'a> Stage<'a> {
    /// Begins a stage of so many pieces, 0 where it is not known.
    pub fn begin(observer: &'a dyn Observer, name: &'static str, of: u64) -> Self {
        observer.progress(name, 0, of);
        Self { observer, name, of, done: Cell::new(0) }
    }

    /// So many more pieces are done.
    pub fn advance(&self, more: u64) {
        self.done.set(self.done.get() + more);
        self.observer.progress(self.name, self.done.get(), self.of);
    }

    /// What there is to see of it.
    pub fn status(&self, words: Arguments<'_>) {
        self.observer.status(words);
    }

    /// Whether to stop.
    pub fn should_stop(&self) -> bool {
        self.observer.should_stop()
    }
}

/// A request that makes no sense. Names of the request's fields stand between backticks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// A number of bytes in words.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
