//! Running the programs in a folder of their own.

use std::path::PathBuf;
use std::process::Command;

pub(crate) struct Sandbox(tempfile::TempDir);

pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a network of 235 parameters for the digits: 64 · 3 + 3 of layer a, 3 · 10 + 10 of layer b.
    pub(crate) fn small_network(&self, name: &str) {
        let layers = r#"
            name = "small"
            input = [1, 8, 8]
            classes = 10
            layers = [
                { type = "flatten" },
                { type = "linear", name = "a", out_features = 3 },
                { type = "tanh" },
                { type = "linear", name = "b", out_features = 10 },
            ]
        "#;
        self.write(name, layers);
    }

    /// What a JSON file holds.
    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        crate::reports::json(&self.path(name))
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), contents).unwrap();
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.0.path())
            .env_remove("QN_DATA")
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn analyse(&self, args: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_qn-analyse"), args)
    }

    pub(crate) fn train(&self, args: &[&str]) -> Output {
        self.run(&train_program(), args)
    }

    /// What qn-analyse prints at a command, words separated by spaces, that succeeds.
    pub(crate) fn analysed(&self, command: &str) -> String {
        let out = self.analyse(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(out.code, 0, "{command}: {}", out.stderr);
        out.stdout
    }

    /// Trains, by a command that succeeds.
    pub(crate) fn trained(&self, command: &str) {
        let out = self.train(&command.split_whitespace().collect::<Vec<_>>());
        assert_eq!(out.code, 0, "{command}: {}", out.stderr);
    }

    /// A digits network after a few steps.
    pub(crate) fn train_digits(&self, out: &str) {
        let args =
            ["--arch", "digits", "--data", "digits", "--lr", "0.05", "--steps", "12", "--samples", "400"];
        let output = self.train(&[&args[..], &["--out", out]].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
    }
}

pub(crate) fn train_program() -> String {
    env!("CARGO_BIN_EXE_qn-train").to_owned()
}
