//! A program's beginning and end, and what it says about itself to a shell, to `man`, and to a reader of the documentation.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Command, Parser, Subcommand};
use clap_complete::Shell;

use crate::interrupt::let_writes_fail;
use crate::processes;
use crate::stdout;
use crate::talk::print_error;

/// The whole of a program: reads the command line, lets `run` do what it says, and sees to it that everything was printed.
/// `run` gives the exit code; 0 and 3 become 1 when stdout could not be written.
pub fn run_program<C: Parser>(run: impl FnOnce(C) -> u8) -> ExitCode {
    prepare_environment();
    if let Err(error) = let_writes_fail() {
        print_error(format_args!("cannot catch signals: {error}"));
        return 1.into();
    }
    let member = match processes::join() {
        Ok(member) => member,
        Err(words) => {
            print_error(words);
            return 2.into();
        }
    };
    let code = match C::try_parse() {
        Ok(command) => run(command),
        Err(words) => {
            let printed = if processes::is_first() { words.print() } else { Ok(()) };
            if !words.use_stderr() {
                stdout::keep(printed);
            }
            words.exit_code() as u8
        }
    };
    let code = match stdout::finish() {
        Ok(()) => code,
        Err(error) => {
            print_error(format_args!("cannot write to stdout: {error}"));
            if matches!(code, 0 | 3) { 1 } else { code }
        }
    };
    member.leave(code);
    code.into()
}

/// Keeps candle from running elementwise operations on threads of its own, unless the environment says otherwise. They
/// wait in loops, which on few processors keeps the convolutions' threads waiting: LeNet's quasi-Newton step took 26 ms
/// instead of 20 on two. An empty QN_DATA counts as unset, as is usual for variables.
///
/// To be called first of all: while there is one thread, nothing can read the environment meanwhile.
#[allow(unsafe_code)]
fn prepare_environment() {
    const CANDLE: &str = "CANDLE_NUM_THREADS";
    const DATA: &str = "QN_DATA";
    if std::env::var_os(CANDLE).is_none() {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var(CANDLE, "1") };
    }
    if std::env::var_os(DATA).is_some_and(|value| value.is_empty()) {
        // SAFETY: no other thread has been started.
        unsafe { std::env::remove_var(DATA) };
    }
}

/// Commands that every program of ours has.
#[derive(Subcommand)]
pub(crate) enum ShellCommand {
    /// Print a completion script for a shell, to be put where that shell looks for them.
    #[command(after_help = "Example (bash; qn-train has the same):
  qn-analyse completions bash > ~/.local/share/bash-completion/completions/qn-analyse")]
    Completions(CompletionsArgs),
    /// Write man pages, one for each command.
    #[command(after_help = "Example (qn-train has the same):
  qn-analyse man && man -l man/qn-analyse-eigen.1")]
    Man(ManArgs),
}

/// Of `completions`.
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Of `man`.
#[derive(Args)]
pub(crate) struct ManArgs {
    /// The folder.
    #[arg(default_value = "man")]
    out: PathBuf,
}

impl ShellCommand {
    /// Runs it for the program that `command` describes.
    pub(crate) fn run(&self, mut command: Command) -> Result<()> {
        match self {
            Self::Completions(args) => {
                let name = command.get_name().to_owned();
                // It panics when it cannot write.
                let mut script = Vec::new();
                clap_complete::generate(args.shell, &mut command, name, &mut script);
                stdout::print(format_args!("{}", String::from_utf8_lossy(&script)));
                Ok(())
            }
            Self::Man(args) => write_man_pages(command, &args.out),
        }
    }
}

fn write_man_pages(command: Command, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    clap_mangen::generate_to(command, out)
        .with_context(|| format!("cannot write man pages to {}", out.display()))
}

/// The help texts of a program and its commands, in Markdown.
pub(crate) fn reference(command: Command) -> String {
    let mut command = command.term_width(100);
    command.build();
    let mut text = String::new();
    describe(&mut text, &mut command);
    text
}

fn describe(text: &mut String, command: &mut Command) {
    // What is not known of a command before it is built is its full name.
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", trimmed(&help)));
    let commands = command.get_subcommands_mut().filter(|c| c.get_name() != "help");
    commands.for_each(|command| describe(text, command));
}

/// Without spaces at the ends of lines.
fn trimmed(help: &str) -> String {
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
