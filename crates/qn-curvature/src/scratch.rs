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
