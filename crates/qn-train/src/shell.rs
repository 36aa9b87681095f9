//! What a program says about itself to a shell, to `man`, and to a reader of the documentation.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;

/// Commands that every program of ours has.
#[derive(Subcommand)]
pub enum ShellCommand {
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
pub struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Of `man`.
#[derive(Args)]
pub struct ManArgs {
    /// The folder.
    #[arg(default_value = "man")]
    out: PathBuf,
}

impl ShellCommand {
    /// Runs it for the program that `command` describes.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn run(&self, mut command: Command) -> Result<()> {
        match self {
            Self::Completions(args) => {
                let name = command.get_name().to_owned();
                clap_complete::generate(args.shell, &mut command, name, &mut std::io::stdout());
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
pub fn reference(command: Command) -> String {
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
