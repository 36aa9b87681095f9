//! Files of parameters along training, in the order of their steps.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_run::{Invalid, Metric, RunDirectory, TrainConfig, read_metrics};

use crate::request::ProblemRequest;

/// What is followed along training: networks with their steps, and of a run its options and its log.
pub(crate) struct Followed {
    pub(crate) places: Vec<(u64, ProblemRequest)>,
    pub(crate) config: Option<TrainConfig>,
    pub(crate) log: Vec<Metric>,
}

impl Followed {
    /// A run's checkpoints, that of one step alone where one is given, or else these files.
    ///
    /// # Errors
    /// There is neither, or they cannot be read or put in order.
    pub(crate) fn of(problem: &ProblemRequest, checkpoints: &[PathBuf]) -> Result<Self> {
        let Some(run) = &problem.run else {
            if checkpoints.is_empty() {
                bail!(Invalid("give a run directory, or `checkpoint` with `arch` and `data`".into()));
            }
            let of = |Checkpoint { step, file }| {
                (step, ProblemRequest { checkpoint: Some(file), ..problem.clone() })
            };
            let places = in_order(checkpoints)?.into_iter().map(of).collect();
            return Ok(Self { places, config: None, log: Vec::new() });
        };
        let run = RunDirectory::open(run)?;
        let steps = match problem.step {
            Some(step) => vec![step],
            None => run.checkpoint_steps()?,
        };
        let of = |step| (step, ProblemRequest { step: Some(step), ..problem.clone() });
        let places = steps.into_iter().map(of).collect();
        Ok(Self { places, config: Some(run.read_config()?), log: read_metrics(&run.metrics_path())? })
    }
}

/// Endings of files of parameters, as they are found in a folder.
const ENDINGS: [&str; 5] = ["safetensors", "pt", "pth", "bin", "ckpt"];

/// A file of parameters along training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The last number in the file's name; where a name has none, the file's number among all, from 0.
    pub(crate) step: u64,
    pub(crate) file: PathBuf,
}

/// Whether these are several files, or may be: more than one path, a folder or a pattern.
pub fn is_series(paths: &[PathBuf]) -> bool {
    paths.len() > 1 || paths.iter().any(|path| path.is_dir() || is_pattern(path))
}

/// A path that is not there and has a star or a question mark.
fn is_pattern(path: &Path) -> bool {
    !path.exists() && path.to_string_lossy().contains(['*', '?', '['])
}

/// All files that the paths stand for, by step: files, the files of parameters in folders, and those that match a pattern.
/// Where a name has no number, all are in the order in which they are given, those of a folder or a pattern by name.
///
/// # Errors
/// A folder or a pattern has none, or two files have the same step.
pub(crate) fn in_order(paths: &[PathBuf]) -> Result<Vec<Checkpoint>> {
    let mut files = Vec::new();
    for path in paths {
        let found = if path.is_dir() {
            in_folder(path)?
        } else if is_pattern(path) {
            matching(path)?
        } else {
            vec![path.clone()]
        };
        if found.is_empty() {
            let what = if path.is_dir() { "has no file of parameters" } else { "matches no file" };
            bail!(Invalid(format!("`checkpoint`: {} {what}: give {}", path.display(), ENDINGS.join(", "))));
        }
        files.extend(found);
    }
    let steps: Option<Vec<u64>> = files.iter().map(|file| last_number(file)).collect();
    let numbered = |(i, file): (usize, PathBuf)| {
        let step = steps.as_ref().map_or(i as u64, |steps| steps[i]);
        Checkpoint { step, file }
    };
    let mut all: Vec<Checkpoint> = files.into_iter().enumerate().map(numbered).collect();
    all.sort_by_key(|checkpoint| checkpoint.step);
    if let Some([a, b]) = all.array_windows().find(|[a, b]| a.step == b.step) {
        bail!(Invalid(format!(
            "`checkpoint`: {} and {} both end in the number {}, which is taken for the step: give one of them",
            a.file.display(),
            b.file.display(),
            a.step
        )));
    }
    Ok(all)
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let known = |path: &PathBuf| {
        path.extension().is_some_and(|found| ENDINGS.iter().any(|ending| found == *ending)) && path.is_file()
    };
    let paths = paths.with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = paths.into_iter().filter(known).collect();
    files.sort();
    Ok(files)
}

fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    let found = glob::glob(&text).map_err(|error| Invalid(format!("`checkpoint` {text}: {error}")))?;
    let files: Result<Vec<PathBuf>, _> = found.collect();
    Ok(files
        .with_context(|| format!("cannot look for {text}"))?
        .into_iter()
        .filter(|f| f.is_file())
        .collect())
}

/// The last digits in a file's name without its ending, as a number.
fn last_number(file: &Path) -> Option<u64> {
    let stem = file.file_stem()?.to_string_lossy();
    let digits = stem.split(|c: char| !c.is_ascii_digit()).rfind(|part| !part.is_empty())?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, files: &[&str]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("qn-checkpoints-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|file| std::fs::write(folder.join(file), "").unwrap());
        folder
    }

    fn steps(paths: &[PathBuf]) -> Vec<u64> {
        in_order(paths).unwrap().into_iter().map(|checkpoint| checkpoint.step).collect()
    }

    #[test]
    fn folders_patterns_and_lists_are_ordered_by_step() {
        let folder = folder("order", &["epoch_10.pt", "epoch_9.pt", "v2-epoch_2.pt", "notes.txt"]);
        assert!(is_series(std::slice::from_ref(&folder)));
        assert_eq!(steps(std::slice::from_ref(&folder)), [2, 9, 10]);
        assert_eq!(steps(&[folder.join("epoch_*.pt")]), [9, 10]);
        let list = ["epoch_10.pt", "epoch_9.pt"].map(|name| folder.join(name));
        assert_eq!(steps(&list), [9, 10]);
        assert!(is_series(&list) && !is_series(&list[..1]));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn without_numbers_the_order_is_the_given_one() {
        let files = ["last.pt", "first.pt"].map(PathBuf::from);
        let found = in_order(&files).unwrap();
        let expected = [(0, "last.pt"), (1, "first.pt")];
        let expected = expected.map(|(step, file)| Checkpoint { step, file: file.into() });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_ordered_is_refused_in_words() {
        let empty = folder("empty", &["notes.txt"]);
        let told = |paths: &[PathBuf]| in_order(paths).unwrap_err().to_string();
        assert!(told(std::slice::from_ref(&empty)).contains("has no file of parameters"));
        assert!(told(&[empty.join("*.pt")]).contains("matches no file"));
        let twice = told(&["a_3.pt".into(), "b_3.pt".into()]);
        assert!(twice.contains("a_3.pt and b_3.pt both end in the number 3"), "{twice}");
        std::fs::remove_dir_all(&empty).unwrap();
    }
}
