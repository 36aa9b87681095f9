//! A full spectrum under way: what is there of it, and how that is written down and read back.
//!
//! Parts of the matrix are added until all are there ([`Assembly`]), then the matrix is reduced to a band, some columns at a
//! time ([`Reducing`]); what follows takes minutes and is not kept, unless all eigenvectors are wanted
//! ([`columns`](super::columns)). Each goes on from what [`State::load`] gives with the
//! bits of a computation that was never broken off.

use std::io::{self, Read, Write};

use qn_spectrum::{Reduction, STORAGE_WIDTH, Scalar, Triangle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::StageSeconds;

/// Bytes of a head: much more than there ever are.
const HEAD_BYTES: u64 = 1 << 16;

/// Some parts of a matrix, all others being zero.
pub(super) struct Assembly<T> {
    pub(super) triangle: Triangle<T>,
    /// How many.
    pub(super) parts: usize,
    /// What they took.
    pub(super) seconds: f64,
}

/// What is known of a matrix that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Assembled {
    pub(super) products: usize,
    pub(super) block_multiply_adds: f64,
    /// |A X − H X| / |H X|.
    pub(super) error: f64,
    pub(super) trace: f64,
    pub(super) frobenius: f64,
    pub(super) seconds: StageSeconds,
}

/// A matrix on its way to a band.
pub(super) struct Reducing<T> {
    pub(super) assembled: Assembled,
    pub(super) reduction: Reduction<T>,
}

/// How far it is.
pub(super) enum State<T> {
    /// The matrix is being assembled.
    Assembling(Assembly<T>),
    /// The matrix is being reduced.
    Reducing(Box<Reducing<T>>),
}

/// What stands before the numbers.
#[derive(Serialize, Deserialize)]
enum Head {
    Assembly { parts: usize, seconds: f64 },
    Reduction(Assembled),
}

/// What can be kept and gone on from.
pub(super) trait Kept {
    /// Writes it as [`State::load`] reads it.
    fn save(&self, to: &mut dyn Write) -> io::Result<()>;
}

impl<T: Scalar> Assembly<T> {
    /// None of a matrix of order n, which is `unit` times what will be stored.
    pub(super) fn new(n: usize, unit: f64) -> Self {
        Self { triangle: Triangle::zeros(n, STORAGE_WIDTH).with_unit(unit), parts: 0, seconds: 0.0 }
    }

    /// Bytes of a matrix of order n.
    pub(super) fn bytes(n: usize) -> u64 {
        Triangle::<T>::bytes(n, STORAGE_WIDTH) as u64
    }
}

impl<T: Scalar> Kept for Assembly<T> {
    fn save(&self, mut to: &mut dyn Write) -> io::Result<()> {
        write_head(to, &Head::Assembly { parts: self.parts, seconds: self.seconds })?;
        self.triangle.write(&mut to)
    }
}

impl<T: Scalar> Kept for Reducing<T> {
    fn save(&self, mut to: &mut dyn Write) -> io::Result<()> {
        write_head(to, &Head::Reduction(self.assembled.clone()))?;
        self.reduction.write(&mut to)
    }
}

impl<T: Scalar> State<T> {
    /// What was saved of a matrix of order n.
    pub(super) fn load(mut from: &mut dyn Read, n: usize) -> io::Result<Self> {
        Ok(match read_head(from)? {
            Head::Assembly { parts, seconds } => {
                Self::Assembling(Assembly { triangle: Triangle::read(&mut from, n)?, parts, seconds })
            }
            Head::Reduction(assembled) => {
                Self::Reducing(Box::new(Reducing { assembled, reduction: Reduction::read(&mut from, n)? }))
            }
        })
    }
}

pub(super) fn write_head(to: &mut dyn Write, head: &impl Serialize) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    to.write_all(&(head.len() as u64).to_le_bytes())?;
    to.write_all(&head)
}

pub(super) fn read_head<H: DeserializeOwned>(from: &mut dyn Read) -> io::Result<H> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > HEAD_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its head is too long"));
    }
    let mut head = Vec::new();
    from.take(len).read_to_end(&mut head)?;
    Ok(serde_json::from_slice(&head)?)
}

#[cfg(test)]
mod tests {
    use qn_spectrum::BAND;

    use super::*;

    fn matrix(n: usize) -> Triangle<f64> {
        Triangle::from_fn(n, STORAGE_WIDTH, |i, j| ((i * 7 + j * 3) % 11) as f64 - 5.0)
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let n = 150;
        let mut bytes = Vec::new();
        Assembly { triangle: matrix(n), parts: 3, seconds: 1.5 }.save(&mut bytes).unwrap();
        let State::Assembling(back) = State::<f64>::load(&mut bytes.as_slice(), n).unwrap() else {
            panic!("it was being assembled");
        };
        assert_eq!((back.parts, back.seconds), (3, 1.5));
        assert!((0..n).all(|i| (0..=i).all(|j| back.triangle.get(i, j) == matrix(n).get(i, j))));
        assert!(State::<f64>::load(&mut &bytes[..20], n).is_err());
        let long = (HEAD_BYTES + 1).to_le_bytes();
        assert!(State::<f64>::load(&mut &long[..], n).is_err());
    }

    /// Eigenvalues of a reduction that was saved in the middle are those of an unbroken one, to the last bit.
    #[test]
    fn a_reduction_goes_on_with_the_same_bits() {
        let n = 150;
        let assembled = Assembled {
            products: 1,
            block_multiply_adds: 2.0,
            error: 0.0,
            trace: 3.0,
            frobenius: 4.0,
            seconds: StageSeconds::default(),
        };
        let whole = Reduction::new(matrix(n), BAND).unwrap().eigen((0, 0), |_| Ok(())).unwrap();
        let mut broken = Reducing { assembled, reduction: Reduction::new(matrix(n), BAND).unwrap() };
        assert!(broken.reduction.step());
        let mut bytes = Vec::new();
        broken.save(&mut bytes).unwrap();
        let State::Reducing(back) = State::<f64>::load(&mut bytes.as_slice(), n).unwrap() else {
            panic!("it was being reduced");
        };
        assert_eq!(back.assembled.trace, 3.0);
        assert_eq!(back.reduction.eigen((0, 0), |_| Ok(())).unwrap().values, whole.values);
    }
}
