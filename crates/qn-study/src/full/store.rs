//! Where a full spectrum under way is kept on disk: a killed computation goes on from it.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qn_run::{Level, Observer, bytes, read_stream, write_stream};
use qn_spectrum::Scalar;
use sha2::{Digest as _, Sha256};

use super::state::{Kept, State};
use crate::StudyError;
use crate::eigen::request::EigenRequest;
use crate::problem::Problem;

/// How the work is divided and written down: a change to that needs another name, so that nothing goes on from what was
/// divided differently.
const DIVISION: &str = "1";

/// Where it is kept, and when.
pub(super) struct Store<'a> {
    /// Nowhere, if there is no report that it could be beside.
    path: Option<PathBuf>,
    key: String,
    /// Time between saves: LeNet's 7.7 GiB take half a minute on a slow disk.
    every: Duration,
    last: Instant,
    observer: &'a dyn Observer,
}

impl<'a> Store<'a> {
    /// Nothing is kept.
    pub(super) fn nowhere(observer: &'a dyn Observer) -> Self {
        Self { path: None, key: String::new(), every: Duration::MAX, last: Instant::now(), observer }
    }

    /// In the file at `path`.
    pub(super) fn at(
        path: PathBuf,
        problem: &Problem,
        args: &EigenRequest,
        observer: &'a dyn Observer,
    ) -> Self {
        let mut subject = problem.subject(&args.problem);
        // Whatever a file is called and whichever commit has built the program, the work is divided in this way.
        subject.checkpoint = DIVISION.into();
        subject.versions.commit.clear();
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&subject).unwrap_or_default());
        for x in problem.target.theta.iter().chain(problem.target.buffers.iter().flatten()) {
            hash.update(x.to_le_bytes());
        }
        Self {
            path: Some(path),
            key: hash.finalize().iter().map(|b| format!("{b:02x}")).collect(),
            every: Duration::from_secs(args.save_every),
            ..Self::nowhere(observer)
        }
    }

    /// Says where saves will be, and warns when there is no room for them; each takes as much as the matrix.
    pub(super) fn announce(&self, need: u64) {
        let Some(path) = &self.path else { return };
        let free = path.ancestors().find_map(|folder| fs4::available_space(folder).ok());
        self.observer.say(
            Level::Detail,
            format_args!(
                "saved every {} s, and when interrupted, to {}: {}",
                self.every.as_secs(),
                path.display(),
                bytes(need)
            ),
        );
        // The one before is there until the next is whole.
        if let Some(free) = free.filter(|&free| free < 2 * need) {
            self.observer.say(
                Level::Warning,
                format_args!(
                    "saves beside {} need {}, and {} is free: an interruption may lose what is done",
                    path.display(),
                    bytes(2 * need),
                    bytes(free)
                ),
            );
        }
    }

    /// Whether it is time to save, or to stop.
    pub(super) fn is_due(&self) -> bool {
        self.observer.should_stop() || (self.path.is_some() && self.last.elapsed() >= self.every)
    }

    /// Saves where it is time, and ends the work where that is wished. That it cannot be saved does not end it.
    pub(super) fn keep(&mut self, state: &dyn Kept) -> Result<()> {
        match (&self.path, self.observer.should_stop()) {
            (None, true) => bail!(StudyError::Stopped),
            (Some(path), true) => {
                let kept = StudyError::Kept(path.clone());
                self.save(state)?;
                bail!(kept)
            }
            (Some(_), false) if self.is_due() => {
                if let Err(error) = self.save(state) {
                    self.observer.say(Level::Warning, format_args!("going on without a save: {error:#}"));
                }
                self.last = Instant::now();
            }
            _ => {}
        }
        Ok(())
    }

    /// What is there of this matrix, of order n.
    pub(super) fn load<T: Scalar>(&self, n: usize) -> Result<Option<State<T>>> {
        let Some(path) = self.path.as_deref().filter(|path| path.is_file()) else { return Ok(None) };
        let found = read_stream(path, |from| {
            let mut key = Vec::new();
            let mut from = from;
            Read::take(&mut from, self.key.len() as u64).read_to_end(&mut key)?;
            // Another matrix: what follows need not be read.
            if key != self.key.as_bytes() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another matrix"));
            }
            State::load(&mut from, n)
        });
        match found {
            Ok(found) => Ok(Some(found)),
            Err(qn_run::RunError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Ok(None)
            }
            Err(error) => Err(error).context("remove the file to begin again"),
        }
    }

    /// Tells the matrix.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Saves, without asking whether it is time.
    pub(super) fn save(&self, state: &dyn Kept) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        write_stream(path, |to| {
            to.write_all(self.key.as_bytes())?;
            state.save(to)
        })?;
        Ok(())
    }

    /// Nothing is under way any more.
    pub(super) fn remove(&self) {
        // One that is left takes space and is replaced by the next; not worth failing for.
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
