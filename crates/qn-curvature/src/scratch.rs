use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use qn_kernels::Real;

/// Buffers that nothing uses at the moment: getting new ones from the system takes longer than filling them.
pub struct Scratch<T> {
    spare: Vec<Vec<T>>,
}

impl<T: Real> Scratch<T> {
    pub(crate) fn new() -> Self {
        Self { spare: Vec::new() }
    }

    /// A buffer; its contents are unspecified.
    pub fn take(&mut self, len: usize) -> Vec<T> {
        let fitting = self.spare.iter().enumerate().filter(|(_, v)| v.capacity() >= len);
        let smallest = fitting.min_by_key(|(_, v)| v.capacity()).map(|(i, _)| i);
        let mut buffer = smallest.map_or_else(Vec::new, |i| self.spare.swap_remove(i));
        buffer.resize(len, T::of(0.0));
        buffer
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, len: usize) -> Vec<T> {
        let mut buffer = self.take(len);
        buffer.fill(T::of(0.0));
        buffer
    }

    /// Takes buffers back.
    pub fn give(&mut self, buffers: impl IntoIterator<Item = Vec<T>>) {
        self.spare.extend(buffers.into_iter().filter(|v| v.capacity() > 0));
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn spare(&self) -> usize {
        self.spare.len()
    }
}

/// Buffers of threads that have finished, for the next pass.
pub(crate) struct Pool<T>(Mutex<Vec<Scratch<T>>>);

impl<T: Real> Pool<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Buffers for a thread, which come back when it drops them.
    pub(crate) fn borrow(&self) -> Borrowed<'_, T> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Borrowed { scratch: idle.unwrap_or_else(Scratch::new), pool: self }
    }

    /// How many buffers there are.
    #[cfg(test)]
    pub(crate) fn spare(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Scratch::spare).sum()
    }
}

/// A thread's buffers, which go back to their pool in the end.
pub(crate) struct Borrowed<'a, T: Real> {
    scratch: Scratch<T>,
    pool: &'a Pool<T>,
}

impl<T: Real> Deref for Borrowed<'_, T> {
    type Target = Scratch<T>;

    fn deref(&self) -> &Scratch<T> {
        &self.scratch
    }
}

impl<T: Real> DerefMut for Borrowed<'_, T> {
    fn deref_mut(&mut self) -> &mut Scratch<T> {
        &mut self.scratch
    }
}

impl<T: Real> Drop for Borrowed<'_, T> {
    fn drop(&mut self) {
        let scratch = std::mem::replace(&mut self.scratch, Scratch::new());
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}
