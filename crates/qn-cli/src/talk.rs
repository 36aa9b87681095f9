//! Talking to the user on stderr.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use clap::{Args, ColorChoice};
use qn_run::Level;

use crate::processes;

/// How much is said on stderr, and in which colours.
#[derive(Args, Clone, Debug)]
pub(crate) struct Talk {
    /// Say nothing but errors and results.
    #[arg(long, short)]
    quiet: bool,
    /// Say more: what was chosen where no option says so, and where time and memory go.
    #[arg(long, short, conflicts_with = "quiet")]
    verbose: bool,
    /// Colours on stderr. NO_COLOR turns them off as well.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

impl Talk {
    /// Chooses the colours of everything that is said from now on; gives how much that is to be.
    pub(crate) fn verbosity(&self) -> Verbosity {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        match (self.quiet || !processes::is_first(), self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Prints a line to stderr. Nobody may be there to read it (a terminal that was closed, a full disk): that ends nothing.
fn talk(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints an error.
pub(crate) fn print_error(words: impl std::fmt::Display) {
    let whose = processes::before_an_error();
    talk(format_args!("{ERROR}error:{ERROR:#} {whose}{words}"));
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// What a user wants to see.
    Normal,
    /// What explains a result or its time.
    Verbose,
}

impl Verbosity {
    /// Prints a line of talk.
    pub(crate) fn say(self, line: impl std::fmt::Display) {
        if self >= Self::Normal {
            talk(line);
        }
    }

    /// Prints what a library says; what is of interest in passing only is not printed.
    pub(crate) fn tell(self, level: Level, words: impl std::fmt::Display) {
        match level {
            Level::Passing => {}
            Level::Detail if self < Self::Verbose => {}
            Level::Detail | Level::Note => self.say(words),
            Level::Warning => self.warn(words),
        }
    }

    /// Prints a warning.
    pub(crate) fn warn(self, words: impl std::fmt::Display) {
        self.say(format_args!("{WARNING}warning:{WARNING:#} {words}"));
    }
}
