use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Pixels added on each side before the crop.
const PADDING: usize = 4;

/// Streams of random numbers with this bit belong to augmentation; those without it to initial parameters and to the
/// order of the data.
const STREAM: u64 = 1 << 63;

/// How one picture is varied: shifted by a crop of its padded form, then mirrored or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CropFlip {
    /// First row and column of the crop, in the picture with [`PADDING`] pixels on each side.
    from: [usize; 2],
    mirrored: bool,
}

impl CropFlip {
    /// For the n pictures of one step, in their order: what seed and step decide, so that a resumed run goes on with the
    /// very pictures of an unbroken one.
    pub(crate) fn draw(n: usize, seed: u64, step: u64) -> Vec<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM | step);
        let shift = |rng: &mut ChaCha8Rng| rng.random_range(0..=2 * PADDING as u32) as usize;
        (0..n)
            .map(|_| Self { from: [shift(&mut rng), shift(&mut rng)], mirrored: rng.random_bool(0.5) })
            .collect()
    }

    /// The varied form of one channel of a picture, row by row; what lies outside is 0, which is black.
    pub(crate) fn pixels(self, plane: &[u8], width: usize) -> impl Iterator<Item = u8> + '_ {
        let height = plane.len() / width;
        (0..plane.len()).map(move |at| {
            let (row, column) = (at / width, at % width);
            let column = if self.mirrored { width - 1 - column } else { column };
            let inside = |at: usize, size: usize| at.checked_sub(PADDING).filter(|&at| at < size);
            match (inside(row + self.from[0], height), inside(column + self.from[1], width)) {
                (Some(row), Some(column)) => plane[row * width + column],
                _ => 0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_shift_and_flips_mirror() {
        let plane: Vec<u8> = (1..=6).collect();
        let of = |from, mirrored| CropFlip { from, mirrored }.pixels(&plane, 3).collect::<Vec<u8>>();
        assert_eq!(of([4, 4], false), [1, 2, 3, 4, 5, 6]);
        assert_eq!(of([4, 4], true), [3, 2, 1, 6, 5, 4]);
        // One row down and one column to the right of the picture's own place.
        assert_eq!(of([5, 5], false), [5, 6, 0, 0, 0, 0]);
        assert_eq!(of([5, 5], true), [0, 6, 5, 0, 0, 0]);
        assert_eq!(of([0, 8], false), [0; 6]);
    }

    #[test]
    fn seed_and_step_decide_and_all_shifts_occur() {
        let all = CropFlip::draw(2000, 3, 7);
        assert_eq!(all[..10], CropFlip::draw(10, 3, 7));
        assert_ne!(all, CropFlip::draw(2000, 3, 8));
        assert_ne!(all, CropFlip::draw(2000, 4, 7));
        for axis in 0..2 {
            let count = |shift| all.iter().filter(|v| v.from[axis] == shift).count();
            assert!((0..=8).all(|shift| (150..300).contains(&count(shift))));
            assert_eq!(count(9), 0);
        }
        let mirrored = all.iter().filter(|v| v.mirrored).count();
        assert!((900..1100).contains(&mirrored), "{mirrored}");
    }
}
