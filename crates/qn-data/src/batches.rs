use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

/// The batches of one epoch: a permutation of 0..n cut into pieces of `batch_size`, the last one
/// shorter where it does not divide n. It depends on seed and epoch alone, so a resumed run goes on
/// with the very batches of an unbroken one. A batch of all n samples is kept in file order.
pub fn epoch_batches(n: usize, batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..n).collect();
    if batch_size < n {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 draws the initial parameters.
        rng.set_stream(epoch + 1);
        order.shuffle(&mut rng);
    }
    order.chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_permutation_that_seed_and_epoch_decide() {
        let a = epoch_batches(103, 10, 1, 0);
        assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), [vec![10; 10], vec![3]].concat());
        let mut all = a.concat();
        assert_eq!(a, epoch_batches(103, 10, 1, 0));
        assert_ne!(a, epoch_batches(103, 10, 1, 1));
        assert_ne!(a, epoch_batches(103, 10, 2, 0));
        all.sort_unstable();
        assert!(all.into_iter().eq(0..103));
    }

    #[test]
    fn the_full_batch_keeps_file_order() {
        assert_eq!(epoch_batches(5, 5, 9, 3), [vec![0, 1, 2, 3, 4]]);
    }
}
