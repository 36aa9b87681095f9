use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Layer, ModelError};

/// A network as a list of layers: the one description that training and analysis both interpret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Shown in reports; no meaning otherwise.
    pub name: String,
    /// Shape of an input: [features], [tokens], or channels, height and width.
    pub input: Vec<usize>,
    /// Number of classes C: the last layer gives this many logits, or has an axis of this many.
    pub classes: usize,
    /// Layers, first to last.
    pub layers: Vec<Layer>,
}

impl Architecture {
    /// Reads an architecture of the user's own from a `.toml` or `.json` file.
    ///
    /// # Errors
    /// The file cannot be read, is not an architecture, or its layers do not fit together.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
        let parsed = if path.extension().is_some_and(|e| e == "json") {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            toml::from_str(&text).map_err(|e| e.to_string())
        };
        let architecture: Self = parsed.map_err(|reason| ModelError::Parse {
            path: path.to_owned(),
            reason: reason.trim().to_owned(),
        })?;
        crate::Graph::new(&architecture)?;
        Ok(architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toml_file_describes_a_network() {
        let dir = std::env::temp_dir().join(format!("qn-model-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("mine.toml");
        std::fs::write(
            &file,
            r#"
            name = "mine"
            input = [1, 4, 4]
            classes = 3
            layers = [
              { type = "conv2d", name = "c", out_channels = 2, kernel = 3, padding = 1 },
              { type = "gelu" },
              { type = "residual", layers = [{ type = "conv2d", name = "r", out_channels = 2, kernel = 1 }] },
              { type = "flatten" },
              { type = "linear", name = "out", out_features = 3, bias = false },
            ]"#,
        )
        .unwrap();
        let arch = Architecture::from_file(&file).unwrap();
        let graph = crate::Graph::new(&arch).unwrap();
        assert_eq!(graph.layout().len(), 2 * 9 + 2 + 2 * 2 + 2 + 32 * 3);
        let back: Architecture = toml::from_str(&toml::to_string(&arch).unwrap()).unwrap();
        assert_eq!(arch, back);
        let mut layers = arch.layers.clone();
        layers.truncate(2);
        assert!(matches!(layers[0], Layer::Conv2d { groups: 1, .. }));

        std::fs::write(&file, "name = 'x'\ninput = [1,4,4]\nclasses = 3\nlayers = [{type='rellu'}]").unwrap();
        let message = Architecture::from_file(&file).unwrap_err().to_string();
        assert!(message.contains("rellu"), "{message}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
