//! Sums over tasks on several threads, with the same bits whatever their number.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Runs `tasks` tasks on `threads` threads. Each thread makes a state of its own with `start`; `work`
/// does a task on it and leaves there what is to be added; `merge` adds it to the common total.
/// Merging happens in the order of the tasks, so the total does not depend on the threads.
pub fn ordered_reduce<S, A: Send>(
    tasks: usize,
    threads: usize,
    total: A,
    start: impl Fn() -> S + Sync,
    work: impl Fn(usize, &mut S) + Sync,
    merge: impl Fn(&mut A, &mut S) + Sync,
) -> A {
    let next = AtomicUsize::new(0);
    let turn = Mutex::new((0, total));
    let turned = Condvar::new();
    let run = || {
        let mut state = start();
        loop {
            // Tasks are started in order, so whoever holds the turn is running: nobody waits forever.
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            work(task, &mut state);
            let mut guard = turn.lock().unwrap_or_else(PoisonError::into_inner);
            while guard.0 != task {
                guard = turned.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            merge(&mut guard.1, &mut state);
            guard.0 += 1;
            turned.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, tasks.max(1)) {
            scope.spawn(run);
        }
        run();
    });
    turn.into_inner().unwrap_or_else(PoisonError::into_inner).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_addition_does_not_depend_on_threads() {
        let sum = |threads| {
            ordered_reduce(
                1000,
                threads,
                0.0f64,
                || 0.0,
                |task, x| *x = 1.0 / (task as f64 + 0.1).powi(3),
                |total, x| *total += *x,
            )
        };
        let one = sum(1);
        assert!([2, 3, 4, 7].map(sum).iter().all(|s| s.to_bits() == one.to_bits()));
        assert_eq!(ordered_reduce(0, 2, 5, || (), |_, ()| (), |_, ()| ()), 5);
    }
}
