use faer::traits::RealField;

/// The precision in which a matrix is stored: f32 or f64.
pub trait Scalar: RealField + bytemuck::Pod + Copy + Send + Sync + 'static {
    /// Numbers up to this, and down to its inverse, can be squared and divided by each other: about
    /// √(eps / smallest normal number).
    const SAFE: f64;
    /// Rounds to this precision.
    fn of(x: f64) -> Self;
    /// Exactly this number as a double.
    fn f64(self) -> f64;
}

impl Scalar for f32 {
    const SAFE: f64 = 1e15;
    fn of(x: f64) -> Self {
        x as Self
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    const SAFE: f64 = 1e145;
    fn of(x: f64) -> Self {
        x
    }
    fn f64(self) -> f64 {
        self
    }
}
