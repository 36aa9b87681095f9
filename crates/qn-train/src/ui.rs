//! Talking to the user: stderr for talk, progress bars on terminals only.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::{Args, ColorChoice};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How much is said on stderr, and in which colours.
#[derive(Args, Clone, Debug)]
pub struct Talk {
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
    pub fn verbosity(&self) -> Verbosity {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }

    /// A user interface with these settings that says nothing.
    pub fn silenced(&self) -> Self {
        Self { quiet: true, verbose: false, color: self.color }
    }
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// Prints a line to stderr. Nobody may be there to read it (a terminal that was closed, a full disk): that ends nothing.
fn talk(line: impl std::fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Prints an error.
pub fn print_error(words: impl std::fmt::Display) {
    talk(format_args!("{ERROR}error:{ERROR:#} {words}"));
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What a user wants to see.
    Normal,
    /// What explains a result or its time.
    Verbose,
}

impl Verbosity {
    /// Prints a line of talk.
    pub fn say(self, line: impl std::fmt::Display) {
        if self >= Self::Normal {
            talk(line);
        }
    }

    /// Prints what only who asks for more wants to see.
    pub fn detail(self, line: impl std::fmt::Display) {
        if self >= Self::Verbose {
            talk(line);
        }
    }

    /// Prints a warning.
    pub fn warn(self, words: impl std::fmt::Display) {
        self.say(format_args!("{WARNING}warning:{WARNING:#} {words}"));
    }

    /// A bar with rate and time left; silent where stderr is no terminal.
    pub fn bar(self, length: u64, what: &str) -> ProgressBar {
        let bar = if self >= Self::Normal && std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(8))
        } else {
            ProgressBar::hidden()
        };
        bar.set_length(length);
        let template = "{prefix} [{bar:30}] {pos}/{len} {per_sec}, {eta} left  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

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

/// The error and what caused it, on one line.
pub fn chain(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let words = cause.to_string().trim().replace('\n', " ");
        if !parts.iter().any(|p| p.contains(&words)) {
            parts.push(words);
        }
    }
    parts.join(": ")
}
