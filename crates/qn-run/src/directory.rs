use std::fs::File;
use std::path::{Path, PathBuf};

use crate::files::{link_target, read_toml, remove_stale, write_json, write_toml};
use crate::{Manifest, RunError, TensorFile, TrainConfig, Versions, convert_former_options};

/// Paths and whole-file access of `runs/NAME`.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

/// What a run's training writes into the folder itself. config.toml, without which a folder counts as no run, is removed
/// last.
const FILES: [&str; 4] = ["metrics.jsonl", "manifest.json", "events.out.tfevents.qn", "config.toml"];

/// A name as that of one folder: what is no letter, digit, `-`, `_` or `.` becomes `-`, and dots at its beginning, which
/// hide a folder or lead out of it, are left out.
pub fn folder_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.trim_start_matches('.').chars().map(plain).collect();
    if name.is_empty() { "unnamed".into() } else { name }
}

/// Held while a process writes to the run; the operating system frees it when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunDirectory {
    /// A run that exists.
    ///
    /// # Errors
    /// There is no `config.toml`.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        if path.is_file() {
            return Err(RunError::IsAFile(path.to_owned()));
        }
        let run = Self { path: path.to_owned() };
        if run.config_path().is_file() { Ok(run) } else { Err(RunError::NotARun(path.to_owned())) }
    }

    /// A new run, locked. With `overwrite`, what a former run left there is removed first.
    ///
    /// # Errors
    /// It exists and `overwrite` is false, is in use, or cannot be written.
    pub fn create(path: &Path, overwrite: bool) -> Result<(Self, RunLock), RunError> {
        let run = Self { path: path.to_owned() };
        std::fs::create_dir_all(path).map_err(RunError::io(path))?;
        let lock = run.lock()?;
        if run.config_path().exists() {
            if !overwrite {
                return Err(RunError::Exists(path.to_owned()));
            }
            run.clear()?;
        }
        match run.foreign() {
            Some(file) => Err(RunError::Foreign(file)),
            None => Ok((run, lock)),
        }
    }

    /// Something with the name of what a run writes, in a folder that holds no run.
    fn foreign(&self) -> Option<PathBuf> {
        let mut files = [self.metrics_path(), self.events_path()].into_iter().filter(|path| path.exists());
        files.next().or_else(|| {
            let steps = |name: &str| steps_in(&self.path.join(name)).is_ok_and(|steps| !steps.is_empty());
            ["snapshots", "checkpoints"].into_iter().find(|name| steps(name)).map(|name| self.path.join(name))
        })
    }

    /// Takes the run for this process, and removes unfinished files that a killed one has left.
    ///
    /// # Errors
    /// Another process has it, or the folder cannot be written.
    pub fn lock(&self) -> Result<RunLock, RunError> {
        let path = self.path.join(".lock");
        let file = File::create(&path).map_err(RunError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {
                remove_stale(&self.path, |name| FILES.contains(&name));
                for folder in ["snapshots", "checkpoints"] {
                    remove_stale(&self.path.join(folder), |name| step_of(name).is_some());
                }
                Ok(RunLock { _file: file })
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(RunError::InUse(self.path.clone())),
            Err(std::fs::TryLockError::Error(e)) => Err(RunError::io(&path)(e)),
        }
    }

    /// Removes what a run writes and what was written about it, and nothing else that a user may have put there.
    fn clear(&self) -> Result<(), RunError> {
        for (name, paths) in [
            ("snapshots", self.snapshot_steps()?.into_iter().map(|s| self.snapshot_path(s)).collect()),
            ("checkpoints", self.checkpoint_steps()?.into_iter().map(|s| self.checkpoint_path(s)).collect()),
            ("reports", self.reports()?),
        ] {
            for path in paths {
                std::fs::remove_file(&path).map_err(RunError::io(&path))?;
            }
            // What is left there is not ours, or nothing.
            let _ = std::fs::remove_dir(self.path.join(name));
        }
        // config.toml goes last: a folder without it counts as no run.
        for name in ["report.html"].into_iter().chain(FILES) {
            let file = self.path.join(name);
            if file.is_file() {
                link_target(&file).and_then(std::fs::remove_file).map_err(RunError::io(&file))?;
            }
        }
        Ok(())
    }

    /// Files in `reports` that were written by us: reports, tensors with our metadata, and what is under way.
    fn reports(&self) -> Result<Vec<PathBuf>, RunError> {
        let dir = self.path.join("reports");
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let ours = |path: &PathBuf| match path.extension().and_then(|e| e.to_str()) {
            Some("json") => {
                std::fs::read(path).is_ok_and(|text| serde_json::from_slice::<ReportHead>(&text).is_ok())
            }
            Some("safetensors") => TensorFile::kind_of(path).is_some(),
            extension => extension == Some("partial"),
        };
        let entries = std::fs::read_dir(&dir).map_err(RunError::io(&dir))?;
        Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours).collect())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `events.out.tfevents.qn`: the same lines for TensorBoard, which goes by that name.
    pub fn events_path(&self) -> PathBuf {
        self.path.join("events.out.tfevents.qn")
    }

    /// `reports/NAME`.
    pub fn report_path(&self, name: &str) -> PathBuf {
        self.path.join("reports").join(name)
    }

    /// `snapshots/step-00000390.safetensors`.
    pub fn snapshot_path(&self, step: u64) -> PathBuf {
        step_file(&self.path.join("snapshots"), step)
    }

    /// `checkpoints/step-00000390.safetensors`.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        step_file(&self.path.join("checkpoints"), step)
    }

    /// Steps of the snapshots there are, ascending.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn snapshot_steps(&self) -> Result<Vec<u64>, RunError> {
        steps_in(&self.path.join("snapshots"))
    }

    /// Steps of the checkpoints there are, ascending.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn checkpoint_steps(&self) -> Result<Vec<u64>, RunError> {
        steps_in(&self.path.join("checkpoints"))
    }

    /// Writes `config.toml`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_config(&self, config: &TrainConfig) -> Result<(), RunError> {
        write_toml(&self.config_path(), config)
    }

    /// Reads `config.toml`.
    ///
    /// # Errors
    /// It cannot be read or has other fields than a [`TrainConfig`].
    pub fn read_config(&self) -> Result<TrainConfig, RunError> {
        let path = self.config_path();
        let mut table: toml::Table = read_toml(&path)?;
        convert_former_options(&mut table);
        table.try_into().map_err(|e| RunError::invalid(&path, e.to_string().trim().to_owned()))
    }

    /// Reads `manifest.json`; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no manifest.
    pub fn read_manifest(&self) -> Result<Option<Manifest>, RunError> {
        let path = self.path.join("manifest.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(RunError::io(&path))?;
        serde_json::from_slice(&text).map(Some).map_err(|e| RunError::invalid(&path, e.to_string()))
    }

    /// Writes `manifest.json`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), RunError> {
        write_json(&self.path.join("manifest.json"), manifest)
    }
}

/// What every report of ours has.
#[derive(serde::Deserialize)]
struct ReportHead {
    #[serde(rename = "schema_version")]
    _schema_version: u32,
    #[serde(rename = "versions")]
    _versions: Versions,
}

fn step_file(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}.safetensors"))
}

/// The step that a snapshot or checkpoint is of, from the file's name.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}

fn steps_in(dir: &Path) -> Result<Vec<u64>, RunError> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(RunError::io(dir))? {
        let name = entry.map_err(RunError::io(dir))?.file_name();
        steps.extend(name.to_str().and_then(step_of));
    }
    steps.sort_unstable();
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_not_replaced_unasked_and_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let (run, lock) = RunDirectory::create(&path, false).unwrap();
        assert!(matches!(RunDirectory::create(&path, true), Err(RunError::InUse(_))));
        drop(lock);
        assert!(matches!(RunDirectory::open(&path), Err(RunError::NotARun(_))));
        std::fs::write(run.config_path(), "x").unwrap();
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        for name in ["reports/mine.json", "reports/thesis.safetensors", "checkpoints/best.pth"] {
            std::fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            std::fs::write(path.join(name), "{}").unwrap();
        }
        crate::write_whole(&run.checkpoint_path(3), b"").unwrap();
        assert!(matches!(RunDirectory::create(&path, false), Err(RunError::Exists(_))));
        RunDirectory::create(&path, true).unwrap();
        assert!(!run.config_path().exists() && path.join("notes.txt").exists());
        for name in ["reports/mine.json", "reports/thesis.safetensors", "checkpoints/best.pth"] {
            assert!(path.join(name).exists(), "{name} is not ours");
        }
        assert!(!run.checkpoint_path(3).exists());
        std::fs::write(path.join("metrics.jsonl"), "of another program").unwrap();
        assert!(matches!(RunDirectory::create(&path, true), Err(RunError::Foreign(_))));
    }

    #[test]
    fn names_become_one_folder() {
        let found = ["lenet", "resnet9-w4", "../../evil", "a b/c", "..", "", "naïve_2.1"].map(folder_name);
        assert_eq!(
            found,
            ["lenet", "resnet9-w4", "-..-evil", "a-b-c", "unnamed", "unnamed", "naïve_2.1"]
                .map(str::to_owned)
        );
    }

    #[test]
    fn steps_are_read_from_names() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _lock) = RunDirectory::create(dir.path(), false).unwrap();
        assert!(run.snapshot_steps().unwrap().is_empty());
        for step in [390, 0, 123_456_789] {
            crate::write_whole(&run.snapshot_path(step), b"").unwrap();
        }
        assert_eq!(run.snapshot_steps().unwrap(), [0, 390, 123_456_789]);
    }
}
