//! A full spectrum under way, on disk: a killed computation goes on from it.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qn_run::{Level, Observer, bytes, read_stream, write_stream};
use qn_spectrum::{Reduction, Scalar, Triangle};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::StudyError;
use crate::assembling::Assembly;
use crate::eigen::EigenRequest;
use crate::problem::Problem;
use crate::report::StageSeconds;

/// Bytes of a head: much more than there ever are.
const HEAD_BYTES: u64 = 1 << 16;

/// What is known of the matrix before it is reduced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Assembled {
    pub(crate) products: usize,
    pub(crate) block_multiply_adds: f64,
    /// |A X − H X| / |H X|.
    pub(crate) error: f64,
    pub(crate) trace: f64,
    pub(crate) frobenius: f64,
    pub(crate) seconds: StageSeconds,
}

/// How far it is, and what is known by then.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Place {
    /// So many parts of the matrix are assembled, in so many seconds.
    Assembly { parts: usize, seconds: f64 },
    /// The matrix is being reduced.
    Reduction(Assembled),
}

#[derive(Serialize, Deserialize)]
struct Head {
    /// Says which matrix it is.
    key: String,
    place: Place,
}

/// What is there of a full spectrum.
pub(crate) enum Begun<T> {
    /// The matrix is being assembled.
    Assembly(Assembly<T>),
    /// The matrix is being reduced.
    Reduction(Box<(Assembled, Reduction<T>)>),
}

/// Where it is kept, and when.
pub(crate) struct Partial<'a> {
    /// Nowhere, if there is no report that it could be beside.
    path: Option<PathBuf>,
    key: String,
    /// Time between saves: LeNet's 7.7 GiB take half a minute on a slow disk.
    every: Duration,
    last: Instant,
    observer: &'a dyn Observer,
}

impl<'a> Partial<'a> {
    /// Nothing is kept.
    pub(crate) fn nowhere(observer: &'a dyn Observer) -> Self {
        Self { path: None, key: String::new(), every: Duration::MAX, last: Instant::now(), observer }
    }

    /// In the file at `path`.
    pub(crate) fn at(
        path: PathBuf,
        problem: &Problem,
        args: &EigenRequest,
        observer: &'a dyn Observer,
    ) -> Self {
        let subject = problem.subject(&args.problem);
        let mut hash = Sha256::new();
        // The program's version too: another one may divide the work in another way.
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
    pub(crate) fn announce(&self, need: u64) {
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

    /// To be called between two pieces of work: ends it when the user has asked for that, and calls `save` before that
    /// and when it is time. That it cannot be saved does not end it.
    pub(crate) fn keep(&mut self, save: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        match (&self.path, self.observer.should_stop()) {
            (None, true) => bail!(StudyError::Stopped),
            (Some(path), true) => {
                let kept = StudyError::Kept(path.clone());
                save(self)?;
                bail!(kept)
            }
            (Some(_), false) if self.last.elapsed() >= self.every => {
                if let Err(error) = save(self) {
                    self.observer.say(
                        Level::Warning,
                        format_args!("going on without a save: {}", format_args!("{error:#}")),
                    );
                }
                self.last = Instant::now();
            }
            _ => {}
        }
        Ok(())
    }

    /// What is there of this matrix, of order n.
    pub(crate) fn load<T: Scalar>(&self, n: usize) -> Result<Option<Begun<T>>> {
        let Some(path) = self.path.as_deref().filter(|path| path.is_file()) else { return Ok(None) };
        let found = read_stream(path, |from| {
            let mut len = [0; 8];
            from.read_exact(&mut len)?;
            let len = u64::from_le_bytes(len);
            if len > HEAD_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its head is too long"));
            }
            let mut head = Vec::new();
            from.take(len).read_to_end(&mut head)?;
            let head: Head = serde_json::from_slice(&head)?;
            // Another matrix: what follows need not be read.
            if head.key != self.key {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another matrix"));
            }
            let mut from = from;
            Ok(match head.place {
                Place::Assembly { parts, seconds } => {
                    Begun::Assembly(Assembly { triangle: Triangle::read(&mut from, n)?, parts, seconds })
                }
                Place::Reduction(assembled) => {
                    Begun::Reduction(Box::new((assembled, Reduction::read(&mut from, n)?)))
                }
            })
        });
        match found {
            Ok(found) => Ok(Some(found)),
            Err(qn_run::RunError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Ok(None)
            }
            Err(error) => Err(error).context("remove the file to begin again"),
        }
    }

    /// Saves some parts of a matrix.
    pub(crate) fn save_assembly<T: Scalar>(&self, assembly: &Assembly<T>) -> Result<()> {
        let place = Place::Assembly { parts: assembly.parts, seconds: assembly.seconds };
        self.save(place, |mut to| assembly.triangle.write(&mut to))
    }

    /// Saves a reduction.
    pub(crate) fn save_reduction<T: Scalar>(
        &self,
        assembled: &Assembled,
        reduction: &Reduction<T>,
    ) -> Result<()> {
        self.save(Place::Reduction(assembled.clone()), |mut to| reduction.write(&mut to))
    }

    fn save(&self, place: Place, matrix: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let head = serde_json::to_vec(&Head { key: self.key.clone(), place })?;
        write_stream(path, |to| {
            to.write_all(&(head.len() as u64).to_le_bytes())?;
            to.write_all(&head)?;
            matrix(to)
        })?;
        Ok(())
    }

    /// Nothing is under way any more.
    pub(crate) fn remove(&self) {
        // One that is left takes space and is replaced by the next; not worth failing for.
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
