//! All eigenvectors of a matrix, in files of some hundreds, for a matrix beside which they do not fit into the memory.
//!
//! Vectors of the tridiagonal matrix become those of the band matrix and then those of the matrix, a stage at a time for all
//! files, so that only what one stage needs is held: n²/2 numbers, no more than the matrix itself. A file is there whole
//! before the one that it was made from is removed; what is killed goes on with the next file, with the same bits.

use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qn_run::{Level, Observer, TensorFile, bytes, read_stream, write_stream};
use qn_spectrum::{Chased, Halves, Reduction, Tridiagonal};
use serde_json::json;

use super::state::{Assembled, read_head, write_head};
use crate::StudyError;
use crate::storage::Stored;
use crate::vector_files::{self, VectorFiles};

/// Bytes of the vectors of a file: some may be held at once beside a matrix that fills the memory.
const FILE_BYTES: usize = 256 << 20;
/// Vectors of a file are a multiple of this, as many as solvers multiply at a time.
const MULTIPLE: usize = 256;
/// Vectors of a file at most.
const MOST: usize = 2048;

/// What the vectors of a file belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Tridiagonal,
    Band,
    Matrix,
}

/// A matrix that has become tridiagonal, and what was found on the way.
pub(super) struct Chase {
    pub(super) assembled: Assembled,
    pub(super) tridiagonal: Tridiagonal,
}

/// The folder of the files.
pub(super) struct Columns<'a> {
    folder: PathBuf,
    /// Tells the matrix.
    key: &'a str,
    /// Goes into the files' metadata.
    layout_hash: &'a str,
    n: usize,
    observer: &'a dyn Observer,
}

impl<'a> Columns<'a> {
    pub(super) fn new(
        folder: PathBuf,
        (key, layout_hash): (&'a str, &'a str),
        n: usize,
        observer: &'a dyn Observer,
    ) -> Self {
        Self { folder, key, layout_hash, n, observer }
    }

    /// Bytes held at most beside what is under way: a file's vectors as numbers, as bytes, and once more while they are written.
    pub(super) fn workspace_bytes<T>(n: usize) -> usize {
        4 * width::<T>(n) * n * size_of::<T>()
    }

    /// Says what will be on the disk.
    pub(super) fn announce<T>(&self) {
        let all = (self.n * self.n * size_of::<T>()) as u64;
        self.observer.say(
            Level::Note,
            format_args!(
                "all eigenvectors will be in {}: {}, and while they are made {} more",
                self.folder.display(),
                bytes(all),
                bytes(all)
            ),
        );
        let free = self.folder.ancestors().find_map(|folder| fs4::available_space(folder).ok());
        if let Some(free) = free.filter(|&free| free < 2 * all) {
            let words = format_args!(
                "{} is free there: when it is used up, make room and give this command again",
                bytes(free)
            );
            self.observer.say(Level::Warning, words);
        }
    }

    /// Keeps a matrix that has become tridiagonal.
    pub(super) fn keep<T: Stored>(&self, chase: &Chase, chased: &Chased<T>) -> Result<()> {
        vector_files::remove_others(&self.folder, self.key)?;
        write_stream(&self.path("reflections.partial"), |mut to| {
            to.write_all(self.key.as_bytes())?;
            chased.write(&mut to)
        })?;
        // Written last: where it is, the reflections are.
        write_stream(&self.path("tridiagonal.partial"), |to| {
            to.write_all(self.key.as_bytes())?;
            write_head(to, &chase.assembled)?;
            let Tridiagonal { diagonal, subdiagonal } = &chase.tridiagonal;
            to.write_all(bytemuck::cast_slice(diagonal))?;
            to.write_all(bytemuck::cast_slice(subdiagonal))
        })?;
        Ok(())
    }

    /// What [`Self::keep`] has kept of this matrix.
    pub(super) fn load(&self) -> Result<Option<Chase>> {
        self.read(&self.path("tridiagonal.partial"), |from| {
            let assembled = read_head(from)?;
            let mut diagonal = vec![0.0; self.n];
            let mut subdiagonal = vec![0.0; self.n.saturating_sub(1)];
            from.read_exact(bytemuck::cast_slice_mut(&mut diagonal))?;
            from.read_exact(bytemuck::cast_slice_mut(&mut subdiagonal))?;
            Ok(Chase { assembled, tridiagonal: Tridiagonal { diagonal, subdiagonal } })
        })
    }

    /// Makes all files of which there is none yet; gives the seconds that all of them took. `values` are ascending, and
    /// `reduction` is asked for when the last stage begins.
    pub(super) fn make<T: Stored>(
        &self,
        chase: &Chase,
        values: &[f64],
        reduction: impl FnOnce() -> Result<Reduction<T>>,
    ) -> Result<f64> {
        let mut clock = Instant::now();
        let missing: Vec<_> = self.ranges::<T>().filter(|range| self.stage(range).is_none()).collect();
        if !missing.is_empty() {
            let halves = Halves::<T>::new(&chase.tridiagonal)?;
            self.each("vectors of the tridiagonal matrix", missing, |range| {
                let numbers = halves.columns(range.clone());
                let seconds = clock.elapsed().as_secs_f64();
                clock = Instant::now();
                self.write(Of::Tridiagonal, range, seconds, &numbers)
            })?;
        }
        let waiting = self.at::<T>(Of::Tridiagonal);
        if !waiting.is_empty() {
            let chased = self
                .read(&self.path("reflections.partial"), |mut from| Chased::<T>::read(&mut from, self.n))?;
            let chased = chased.context("the reflections are of another matrix")?;
            self.each("vectors of the band matrix", waiting, |range| {
                let clock = Instant::now();
                let (seconds, mut numbers) = self.read_columns::<T>(Of::Tridiagonal, range)?;
                chased.apply(&mut numbers);
                self.write(Of::Band, range, seconds + clock.elapsed().as_secs_f64(), &numbers)?;
                self.remove(Of::Tridiagonal, range)
            })?;
        }
        let waiting = self.at::<T>(Of::Band);
        if !waiting.is_empty() {
            let reduction = reduction()?;
            self.each("vectors of the matrix", waiting, |range| {
                let clock = Instant::now();
                let (seconds, mut numbers) = self.read_columns::<T>(Of::Band, range)?;
                reduction.transform(&mut numbers);
                self.write_final(range, seconds + clock.elapsed().as_secs_f64(), values, &numbers)?;
                self.remove(Of::Band, range)
            })?;
        }
        self.finished().seconds()
    }

    /// The files, all being there.
    pub(super) fn finished(&self) -> VectorFiles {
        VectorFiles::new(self.folder.clone(), self.key.to_owned(), self.n)
    }

    /// Nothing is under way any more.
    pub(super) fn clear(&self) {
        // What is left takes space and is replaced by the next; not worth failing for.
        for name in ["tridiagonal.partial", "reflections.partial"] {
            let _ = std::fs::remove_file(self.path(name));
        }
    }

    /// Goes through files, until the observer wishes to stop.
    fn each(
        &self,
        stage: &str,
        ranges: Vec<Range<usize>>,
        mut make: impl FnMut(&Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let all = ranges.len() as u64;
        for (done, range) in ranges.iter().enumerate() {
            self.observer.progress(stage, done as u64, all);
            if self.observer.should_stop() {
                bail!(StudyError::Kept(self.folder.clone()));
            }
            make(range)?;
        }
        Ok(())
    }

    /// Vectors of a file each, in the order of ascending eigenvalues.
    fn ranges<T>(&self) -> impl Iterator<Item = Range<usize>> {
        let (n, width) = (self.n, width::<T>(self.n));
        (0..n).step_by(width).map(move |start| start..n.min(start + width))
    }

    /// Files that are so far.
    fn at<T>(&self, of: Of) -> Vec<Range<usize>> {
        self.ranges::<T>().filter(|range| self.stage(range) == Some(of)).collect()
    }

    /// How far a file is.
    fn stage(&self, range: &Range<usize>) -> Option<Of> {
        [Of::Matrix, Of::Band, Of::Tridiagonal].into_iter().find(|&of| {
            let path = self.file(of, range);
            match of {
                Of::Matrix => TensorFile::meta_of(&path).is_some_and(|meta| meta["key"] == self.key),
                _ => self.is_ours(&path),
            }
        })
    }

    fn is_ours(&self, path: &Path) -> bool {
        let mut key = Vec::new();
        let head =
            std::fs::File::open(path).and_then(|file| file.take(self.key.len() as u64).read_to_end(&mut key));
        head.is_ok() && key == self.key.as_bytes()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn file(&self, of: Of, range: &Range<usize>) -> PathBuf {
        let name = vector_files::name(self.n - range.end);
        match of {
            Of::Tridiagonal => self.path(&format!("{name}.tridiagonal.partial")),
            Of::Band => self.path(&format!("{name}.band.partial")),
            Of::Matrix => self.path(&format!("{name}.safetensors")),
        }
    }

    /// What is in a file of this matrix; none where it is not there, or of another.
    fn read<R>(&self, path: &Path, read: impl FnOnce(&mut dyn Read) -> io::Result<R>) -> Result<Option<R>> {
        if !self.is_ours(path) {
            return Ok(None);
        }
        let found = read_stream(path, |from| {
            from.read_exact(&mut vec![0; self.key.len()])?;
            read(from)
        });
        found.map(Some).context("remove the file to make it again")
    }

    fn read_columns<T: Stored>(&self, of: Of, range: &Range<usize>) -> Result<(f64, Vec<T>)> {
        let path = self.file(of, range);
        let found = self.read(&path, |from| {
            let mut seconds = [0; 8];
            from.read_exact(&mut seconds)?;
            let mut numbers: Vec<T> = bytemuck::zeroed_vec(self.n * range.len());
            from.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
            Ok((f64::from_le_bytes(seconds), numbers))
        })?;
        found.with_context(|| format!("{} is gone", path.display()))
    }

    fn write<T: Stored>(&self, of: Of, range: &Range<usize>, seconds: f64, numbers: &[T]) -> Result<()> {
        write_stream(&self.file(of, range), |to| {
            to.write_all(self.key.as_bytes())?;
            to.write_all(&seconds.to_le_bytes())?;
            to.write_all(bytemuck::cast_slice(numbers))
        })?;
        Ok(())
    }

    /// As anybody reads them, eigenvalues descending.
    fn write_final<T: Stored>(
        &self,
        range: &Range<usize>,
        seconds: f64,
        values: &[f64],
        numbers: &[T],
    ) -> Result<()> {
        let descending: Vec<T> = numbers.chunks_exact(self.n).rev().flatten().copied().collect();
        let eigenvalues: Vec<f64> = values[range.clone()].iter().rev().copied().collect();
        let meta = json!({
            "kind": "eigenvectors",
            "layout_hash": self.layout_hash,
            "key": self.key,
            "first": self.n - range.end,
            "of": self.n,
            "seconds": seconds,
        });
        let tensors = vector_files::tensors(&eigenvalues, T::tensor(&[range.len(), self.n], &descending));
        Ok(TensorFile { meta, tensors }.write(&self.file(Of::Matrix, range))?)
    }

    fn remove(&self, of: Of, range: &Range<usize>) -> Result<()> {
        let path = self.file(of, range);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Vectors of a file.
fn width<T>(n: usize) -> usize {
    (FILE_BYTES / (n * size_of::<T>()) / MULTIPLE * MULTIPLE).clamp(MULTIPLE, MOST)
}
