/// A number with so many decimals, or with an exponent where these would not show it.
pub(super) fn decimal(x: f64, decimals: usize) -> String {
    let shown = 10f64.powi(1 - decimals.min(300) as i32);
    if x == 0.0 || (shown..1e8).contains(&x.abs()) {
        format!("{x:.decimals$}")
    } else {
        format!("{x:.decimals$e}")
    }
}
