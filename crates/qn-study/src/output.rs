//! Where outputs go, and what they may replace: nothing but an older output of their own kind.
//!
//! [`Output::claim`] is asked before anything long begins. What stands at the place is told by its content, not by its
//! name: a report by its `kind`, tensors by their metadata, a picture or page by [`MARK`].

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use qn_run::{TensorFile, write_whole};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What pictures and pages carry, so that a later one may take their place.
pub(crate) const MARK: &str = "made by qn-analyse";

/// A report that is written as JSON.
pub trait Report: Serialize + DeserializeOwned {
    /// Its `kind` in the file, and the file's name in a run's reports, without the ending.
    const KIND: &'static str;
    /// The study that makes it.
    const STUDY: &'static str;
    /// Fields of the study's request without which it does not.
    const WITH: &'static [&'static str] = &[];
}

/// A kind of output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    /// A report of this `kind`; the function tells whether a file without a kind, by an earlier version, is one.
    Report(&'static str, fn(&Value) -> bool),
    /// Tensors whose metadata have this `kind`.
    Tensors(&'static str),
    /// A picture or a page.
    Marked,
}

impl Output {
    /// A report of type R.
    pub(crate) fn report<R: Report>() -> Self {
        Self::Report(R::KIND, |value| R::deserialize(value.clone()).is_ok())
    }

    /// Refuses a path at which something else stands.
    pub(crate) fn claim(self, path: &Path) -> Result<()> {
        if path.is_dir() {
            bail!("{} is a folder: give a file's name", path.display());
        }
        if path.exists() && !self.is_at(path)? {
            bail!(
                "{} is there and is no {} written by this program: it is not replaced; give another name, or move it away",
                path.display(),
                self.what()
            );
        }
        Ok(())
    }

    fn what(self) -> String {
        match self {
            Self::Report(kind, _) => format!("report of kind '{kind}'"),
            Self::Tensors(kind) => format!("file of {kind}"),
            Self::Marked => "picture or page".into(),
        }
    }

    fn is_at(self, path: &Path) -> Result<bool> {
        match self {
            Self::Report(kind, fits) => {
                let Ok(value) = serde_json::from_slice::<Value>(&read(path)?) else { return Ok(false) };
                Ok(value.get("kind").map_or_else(|| fits(&value), |found| found == kind))
            }
            Self::Tensors(kind) => Ok(TensorFile::kind_of(path).is_some_and(|found| found == kind)),
            Self::Marked => {
                let bytes = read(path)?;
                Ok(bytes.windows(MARK.len()).any(|part| part == MARK.as_bytes()))
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let open = std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    open.with_context(|| format!("cannot read what is at {}", path.display()))?;
    Ok(bytes)
}

/// The place of a file that belongs to a report in a file: `NAME.WHAT` beside `NAME.json`, and just WHAT beside `eigen.json`.
/// WHAT has an ending.
pub(crate) fn beside(report: &Path, what: &str) -> PathBuf {
    match report.file_stem().and_then(|stem| stem.to_str()) {
        Some("eigen") | None => report.with_file_name(match what {
            "eigenvectors.safetensors" => "eigen.safetensors",
            other => other,
        }),
        Some(stem) => report.with_file_name(format!("{stem}.{what}")),
    }
}

/// Refuses a place where something else than an earlier report of its kind stands.
pub fn claim<R: Report>(to: Option<&Path>) -> Result<()> {
    to.map_or(Ok(()), |path| Output::report::<R>().claim(path))
}

/// A report as JSON, with its `kind`. What a reader would refuse is refused: a number that is not finite is `null` in JSON.
///
/// # Errors
/// A number is not finite.
pub fn to_json<R: Report>(report: &R) -> Result<String> {
    #[derive(Serialize)]
    struct Named<'a, R> {
        kind: &'static str,
        #[serde(flatten)]
        report: &'a R,
    }
    let named = Named { kind: R::KIND, report };
    let mut text = serde_json::to_string_pretty(&named).context("cannot write the report as JSON")?;
    // By way of a value, as reports are read: code for one more way is made for every kind of report.
    serde_json::from_str::<Value>(&text).and_then(R::deserialize).map_err(|error| {
        anyhow!(
            "the report of kind '{}' has a number that is not finite and is not written: {error}",
            R::KIND
        )
    })?;
    text.push('\n');
    Ok(text)
}

/// Writes a report where it is to be, if anywhere.
pub fn write<R: Report>(report: &R, to: Option<&Path>) -> Result<()> {
    let text = to_json(report)?;
    Ok(to.map_or(Ok(()), |path| write_whole(path, text.as_bytes()))?)
}
