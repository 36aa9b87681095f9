//! A full spectrum under way, on disk: a killed computation goes on from it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use qn_run::{read_stream, write_stream};
use qn_spectrum::{Reduction, Scalar};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::eigen::EigenArgs;
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

#[derive(Serialize, Deserialize)]
struct Head {
    /// Says which matrix it is.
    key: String,
    assembled: Assembled,
}

/// Where a reduction is kept.
pub(crate) struct Partial {
    path: PathBuf,
    key: String,
    /// Time between saves: LeNet's 7.7 GiB take half a minute on a slow disk.
    every: Duration,
    last: Instant,
}

impl Partial {
    /// Beside the report at `report`.
    pub(crate) fn beside(report: &Path, problem: &Problem, args: &EigenArgs) -> Self {
        let subject = problem.subject(&args.problem);
        let mut hash = Sha256::new();
        // The program's version too: another one may divide the work in another way.
        hash.update(serde_json::to_vec(&subject).unwrap_or_default());
        for x in problem.target.theta.iter().chain(problem.target.buffers.iter().flatten()) {
            hash.update(x.to_le_bytes());
        }
        let key = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Self {
            path: report.with_file_name("full_spectrum.partial"),
            key,
            every: Duration::from_secs(args.save_every),
            last: Instant::now(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is there of this matrix, of order n.
    pub(crate) fn load<T: Scalar>(&self, n: usize) -> Result<Option<(Assembled, Reduction<T>)>> {
        if !self.path.is_file() {
            return Ok(None);
        }
        let found = read_stream(&self.path, |from| {
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
            Ok((head.assembled, Reduction::read(&mut &mut *from, n)?))
        });
        match found {
            Ok(found) => Ok(Some(found)),
            Err(qn_run::RunError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Ok(None)
            }
            Err(error) => Err(error).context("remove the file to begin again"),
        }
    }

    /// Whether it is time to save.
    pub(crate) fn is_due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    pub(crate) fn save<T: Scalar>(&mut self, assembled: &Assembled, reduction: &Reduction<T>) -> Result<()> {
        let head = serde_json::to_vec(&Head { key: self.key.clone(), assembled: assembled.clone() })?;
        write_stream(&self.path, |mut to| {
            to.write_all(&(head.len() as u64).to_le_bytes())?;
            to.write_all(&head)?;
            reduction.write(&mut to)
        })?;
        self.last = Instant::now();
        Ok(())
    }

    /// Nothing is under way any more.
    pub(crate) fn remove(&self) {
        // One that is left takes space and is replaced by the next; not worth failing for.
        let _ = std::fs::remove_file(&self.path);
    }
}
