//! How a matrix lies on a grid of processes, and who solves it there.

use std::fmt::Debug;

/// Rows and columns of a block, at most: what the libraries' kernels are made for.
const BLOCK: usize = 64;

/// A square matrix on a grid of processes: cut into square blocks, which go round the grid's rows and columns, as
/// ScaLAPACK lays it out. A process holds its part column by column.
#[derive(Clone, Copy, Debug)]
pub struct BlockCyclic {
    /// Order of the matrix.
    pub n: usize,
    /// Rows and columns of a block.
    pub block: usize,
    /// Rows and columns of the grid.
    pub grid: [usize; 2],
    /// This process's row and column in it.
    pub at: [usize; 2],
    /// Rows and columns of its part.
    pub len: [usize; 2],
}

impl BlockCyclic {
    /// The part of process `rank` of so many.
    pub fn new(n: usize, rank: usize, size: usize) -> Self {
        let fits = |rows: &usize| size.is_multiple_of(*rows);
        let rows = (1..=size).take_while(|r| r * r <= size).filter(fits).last().unwrap_or(1);
        let grid = [rows, size / rows];
        let block = (n / grid[1]).clamp(1, BLOCK);
        let this = Self { n, block, grid, at: [rank % rows, rank / rows], len: [0, 0] };
        Self { len: [0, 1].map(|axis| this.own(axis).count()), ..this }
    }

    /// Where row (axis 0) or column (axis 1) i is in the part, if it is there.
    pub(crate) fn place(&self, axis: usize, i: usize) -> Option<usize> {
        let (block, within) = (i / self.block, i % self.block);
        let here = block % self.grid[axis] == self.at[axis];
        here.then(|| block / self.grid[axis] * self.block + within)
    }

    /// The rows or columns of the part, in its order.
    pub(crate) fn own(self, axis: usize) -> impl Iterator<Item = usize> {
        (0..self.n).filter(move |&i| self.place(axis, i).is_some())
    }
}

/// A solver for symmetric matrices that several processes hold.
pub trait DenseSolver: Debug + Send + Sync {
    /// What the report calls it.
    fn name(&self) -> &'static str;

    /// All eigenvalues, ascending; the vectors of the first k of them go to the first k columns of q, which lies as the
    /// matrix `a`, both triangles of it, does. What a holds is overwritten.
    ///
    /// # Errors
    /// In words.
    fn eigen(&self, of: &BlockCyclic, a: &mut [f64], q: &mut [f64], k: usize) -> Result<Vec<f64>, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_in_one_part() {
        for (n, size) in [(1, 1), (7, 3), (130, 4), (1000, 6), (300, 7)] {
            let parts: Vec<BlockCyclic> = (0..size).map(|rank| BlockCyclic::new(n, rank, size)).collect();
            assert_eq!(parts.iter().map(|part| part.len[0] * part.len[1]).sum::<usize>(), n * n);
            for i in [0, n / 3, n - 1] {
                let holders = parts.iter().filter(|p| p.place(0, i).is_some() && p.place(1, n / 2).is_some());
                assert_eq!(holders.count(), 1, "{n} {size}");
            }
            for part in &parts {
                for axis in [0, 1] {
                    let places = part.own(axis).map(|i| part.place(axis, i));
                    assert!(places.eq((0..part.len[axis]).map(Some)), "{n} {size}");
                }
            }
        }
    }
}
