use qn_study::{RandomAssigned, Spread};

/// Mean and standard deviation in words.
pub(super) fn spread(values: &[f64], decimals: usize) -> String {
    Spread::of(values).map_or("-".into(), |spread| spread.words(decimals, false))
}

/// What random directions have, in words.
pub(super) fn by_chance(random: &RandomAssigned) -> String {
    format!("{:.4} ± {:.4}", random.mean, random.std)
}
