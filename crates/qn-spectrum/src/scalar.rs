use faer::traits::RealField;

/// The precision in which a matrix is stored: f32 or f64.
pub trait Scalar: RealField + bytemuck::Pod + Copy + Send + Sync + 'static {
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// Exactly this number as a double.
    fn f64(self) -> f64;
}

impl Scalar for f32 {
    fn of(x: f64) -> Self {
        x as Self
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn f64(self) -> f64 {
        self
    }
}
