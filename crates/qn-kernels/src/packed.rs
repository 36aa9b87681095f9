/// Weights in the order in which a kernel reads them.
#[derive(Clone, Debug)]
pub struct Packed<T>(pub(crate) Vec<T>);

impl<T> Packed<T> {
    /// All of them.
    pub fn numbers(&self) -> &[T] {
        &self.0
    }
}
