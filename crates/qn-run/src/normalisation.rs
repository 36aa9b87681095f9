use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mean and standard deviation of each channel of the inputs: the network is given (x - mean)/std.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// One for each channel, or one for all of them.
    pub mean: Vec<f64>,
    /// As many, positive.
    pub std: Vec<f64>,
}
