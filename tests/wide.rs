//! A network above the size up to which the library's eigensolver is used.

/// An architecture for the digits with so many hidden features; 27 give 2,959 parameters, 19 give 2,103.
pub(crate) fn architecture(features: usize) -> String {
    format!(
        r#"
        name = "wide"
        input = [1, 8, 8]
        classes = 10
        layers = [
          {{ type = "conv2d", name = "conv", out_channels = 6, kernel = 3, padding = 1 }},
          {{ type = "relu" }},
          {{ type = "max_pool2d", kernel = 2 }},
          {{ type = "flatten" }},
          {{ type = "linear", name = "fc1", out_features = {features} }},
          {{ type = "relu" }},
          {{ type = "linear", name = "fc2", out_features = 10 }},
        ]
    "#
    )
}
