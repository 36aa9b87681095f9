//! Whoever sits in front of a terminal, as an observer: a bar for the stage under way, talk above it, signals to stop.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qn_run::{Level, Observer};

use crate::errors::with_options;
use crate::interrupt::Interrupt;
use crate::talk::{Talk, Verbosity};

/// The user.
pub(crate) struct Terminal<'a> {
    pub(crate) verbosity: Verbosity,
    interrupt: &'a Interrupt,
    /// The stage under way, with its bar.
    stage: RefCell<Option<(String, ProgressBar)>>,
}

impl<'a> Terminal<'a> {
    /// From here on everything is said in the colours that were asked for.
    pub(crate) fn new(talk: &Talk, interrupt: &'a Interrupt) -> Self {
        Self { verbosity: talk.verbosity(), interrupt, stage: RefCell::new(None) }
    }

    /// Takes the bar away, so that something else can be printed.
    pub(crate) fn clear(&self) {
        if let Some((_, bar)) = self.stage.take() {
            bar.finish_and_clear();
        }
    }

    /// Takes the bar away and prints a line of talk.
    pub(crate) fn note(&self, words: impl std::fmt::Display) {
        self.clear();
        self.verbosity.say(words);
    }

    /// A bar with rate and time left, where stderr is a terminal.
    fn bar(&self, stage: &str, of: u64) -> ProgressBar {
        let shown = self.verbosity >= Verbosity::Normal && std::io::stderr().is_terminal();
        if !shown {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        let template = match of {
            0 => "{prefix} {spinner} {pos} {per_sec}  {msg}",
            _ => "{prefix} [{bar:30}] {pos}/{len} {per_sec}, {eta} left  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

impl Observer for Terminal<'_> {
    fn progress(&self, stage: &str, done: u64, of: u64) {
        if self.stage.borrow().as_ref().is_none_or(|(name, _)| name != stage) {
            self.clear();
            let bar = self.bar(stage, of);
            if of > 0 {
                bar.set_length(of);
            }
            // Of what goes on from the middle the rate is that of what follows.
            bar.set_position(done);
            bar.reset_eta();
            self.stage.replace(Some((stage.to_owned(), bar)));
        } else if let Some((_, bar)) = self.stage.borrow().as_ref() {
            bar.set_position(done);
        }
    }

    fn status(&self, words: Arguments<'_>) {
        if let Some((_, bar)) = self.stage.borrow().as_ref() {
            bar.set_message(words.to_string());
        }
    }

    fn say(&self, level: Level, words: Arguments<'_>) {
        let words = with_options(&words.to_string());
        match self.stage.borrow().as_ref() {
            Some((_, bar)) if level == Level::Passing => bar.println(words),
            Some((_, bar)) => bar.suspend(|| self.verbosity.tell(level, words)),
            None => self.verbosity.tell(level, words),
        }
    }

    fn should_stop(&self) -> bool {
        self.interrupt.exit_code().is_some()
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
