use faer::traits::RealField;

/// f32 or f64: the precision of a product. Sums over microbatches are always f64.
pub trait Real: RealField + Copy + Send + Sync + std::iter::Sum + 'static {
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// Exactly this number as a double.
    fn f64(self) -> f64;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as Self
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn f64(self) -> f64 {
        self
    }
}
