//! Bytes that a solver holds, counted by the allocator of this program.

// A global allocator cannot be had without it; what it does is the system's own.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use common::Prescribed;
use qn_spectrum::{
    Eigenpairs, LanczosOptions, STORAGE_WIDTH, Scalar, StopReason, Triangle, Vectors, eigh, lanczos,
    workspace_bytes,
};

/// The system's allocator, with the bytes that are held now and the most that there were.
struct Counting {
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Counting {
    fn add(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) };
    }
}

#[global_allocator]
static COUNTING: Counting = Counting { held: AtomicUsize::new(0), peak: AtomicUsize::new(0) };

/// The most bytes that are held at a time while ten pairs are found.
fn peak<S: Scalar>(operator: &Prescribed) -> usize {
    let before = COUNTING.held.load(Ordering::Relaxed);
    COUNTING.peak.store(before, Ordering::Relaxed);
    let options = LanczosOptions { k: 10, ncv: Some(26), tol: 1e-5, ..LanczosOptions::default() };
    let pairs: Eigenpairs<S> = lanczos(operator, &options, |_| ()).unwrap();
    assert_eq!(pairs.stop_reason, StopReason::Converged);
    assert!(pairs.iterations > 0, "a restart takes memory, too");
    COUNTING.peak.load(Ordering::Relaxed) - before
}

/// One test at a time: they share the counter.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn single_precision_takes_half_of_the_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |n: usize| Prescribed::new((0..n).map(|i| (1.0 + i as f64).powf(-0.7)).collect());
    // What matrix products keep for the next ones, whatever their size.
    peak::<f64>(&of(2000));
    let n = 200_000;
    let operator = of(n);
    let (single, double) = (peak::<f32>(&operator), peak::<f64>(&operator));
    // A basis of 26 vectors and the next block, at least.
    assert!(double >= 28 * n * size_of::<f64>(), "{double}");
    assert!(single as f64 <= 0.55 * double as f64, "{single} of {double} bytes");
}

/// The most bytes that are held at a time while a matrix is solved, the matrix's own among them.
fn peak_of_dense<T: Scalar>(n: usize, vectors: Vectors) -> usize {
    let before = COUNTING.held.load(Ordering::Relaxed);
    COUNTING.peak.store(before, Ordering::Relaxed);
    let entry = |i: usize, j: usize| ((i * 7 + j * 13) as f64).sin() + if i == j { i as f64 } else { 0.0 };
    let triangle = Triangle::<T>::from_fn(n, STORAGE_WIDTH, entry);
    let found = eigh(triangle, vectors, |_| Ok(())).unwrap();
    assert_eq!(found.values.len(), n);
    COUNTING.peak.load(Ordering::Relaxed) - before
}

#[test]
fn all_vectors_take_at_most_one_and_a_half_matrices_beside_the_result() {
    fn check<T: Scalar>() {
        let n = 1700;
        let (square, pool) =
            (n * n * size_of::<T>(), rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
        let peak = |vectors| pool.install(|| peak_of_dense::<T>(n, vectors));
        // What matrix products keep for the next ones, which depends on the machine's caches.
        peak(Vectors::All);
        let (all, some) = (peak(Vectors::All), peak(Vectors::Range(0..n / 10)));
        let shares = [all, some].map(|bytes| bytes as f64 / square as f64);
        assert!((2.0..2.5).contains(&shares[0]), "{}: {shares:?}", T::NAME);
        assert!((1.5..2.0).contains(&shares[1]), "{}: {shares:?}", T::NAME);
        let told = Triangle::<T>::bytes(n, STORAGE_WIDTH) + workspace_bytes::<T>(n, n / 10);
        assert!(some <= told, "{some} bytes, {told} told");
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    check::<f64>();
    check::<f32>();
}
