use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use toml::Spanned;

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
        let json = path.extension().is_some_and(|e| e == "json");
        let written = if json { Written::json(&text) } else { Written::toml(&text) };
        let Written { name, input, classes, layers } = written.map_err(|reason| ModelError::Parse {
            path: path.to_owned(),
            reason: reason.trim().to_owned(),
        })?;
        let (starts, layers): (Vec<usize>, Vec<_>) = layers.into_iter().unzip();
        let at = |index: usize, error: ModelError| {
            let line = 1 + text[..starts[index]].matches('\n').count();
            ModelError::At { path: path.to_owned(), line, error: Box::new(error) }
        };
        let read = |(index, layer): (usize, Result<Layer, String>)| {
            let refused = |reason| ModelError::Layer {
                architecture: name.clone(),
                index,
                layer: (index + 1).to_string(),
                reason,
            };
            layer.map_err(|reason| at(index, refused(reason)))
        };
        let layers = layers.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        let architecture = Self { name: name.clone(), input, classes, layers };
        match crate::Graph::new(&architecture) {
            Ok(_) => Ok(architecture),
            Err(error @ ModelError::Layer { index, .. }) => Err(at(index, error)),
            Err(error) => Err(error),
        }
    }
}

/// An architecture as a file has it: of each layer, where in the text it begins, and what it is.
struct Written {
    name: String,
    input: Vec<usize>,
    classes: usize,
    layers: Vec<(usize, Result<Layer, String>)>,
}

/// An [`Architecture`] of which the layers are not yet read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outline<L> {
    name: String,
    input: Vec<usize>,
    classes: usize,
    layers: Vec<L>,
}

impl Written {
    fn toml(text: &str) -> Result<Self, String> {
        let outline: Outline<Spanned<toml::Value>> = toml::from_str(text).map_err(|e| e.to_string())?;
        let layer = |layer: Spanned<toml::Value>| {
            let start = layer.span().start;
            (start, Layer::deserialize(layer.into_inner()).map_err(|e| e.to_string()))
        };
        Ok(outline.with(layer))
    }

    fn json(text: &str) -> Result<Self, String> {
        let outline: Outline<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let layer = |layer: &RawValue| {
            let start = layer.get().as_ptr().addr() - text.as_ptr().addr();
            // Lines and columns that this parser counts are those in the layer.
            let read = serde_json::from_str::<serde_json::Value>(layer.get()).and_then(Layer::deserialize);
            (start, read.map_err(|e| e.to_string()))
        };
        Ok(outline.with(layer))
    }
}

impl<L> Outline<L> {
    fn with(self, layer: impl FnMut(L) -> (usize, Result<Layer, String>)) -> Written {
        let Self { name, input, classes, layers } = self;
        Written { name, input, classes, layers: layers.into_iter().map(layer).collect() }
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
        assert!(message.contains("rellu") && message.contains("line 4: "), "{message}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_wrong_layer_is_named_with_its_line() {
        let dir = std::env::temp_dir().join(format!("qn-model-lines-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let told = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            Architecture::from_file(&dir.join(name)).unwrap_err().to_string()
        };
        let toml = "name = 'x'\ninput = [1, 4, 4]\nclasses = 3\nlayers = [\n  { type = 'tanh' },\n";
        let unfit =
            told("a.toml", &format!("{toml}  {{ type = 'linear', name = 'l', out_features = 3 }},\n]"));
        assert!(unfit.contains("a.toml, line 6: ") && unfit.contains("layer 2 (linear l): "), "{unfit}");
        let inner = "{ type = 'residual', layers = [{ type = 'max_pool2d', kernel = 9 }] }";
        let inside = told("b.toml", &format!("{toml}  {inner},\n]"));
        assert!(
            inside.contains("line 6: ") && inside.contains("2 (residual), in it 1 (max_pool2d"),
            "{inside}"
        );
        let missing = told("c.toml", &format!("{toml}  {{ type = 'linear', name = 'l' }},\n]"));
        assert!(missing.contains("line 6: ") && missing.contains("out_features"), "{missing}");
        let json = "{\"name\": \"x\", \"input\": [4], \"classes\": 3, \"layers\": [\n  {\"type\": \"tanh\"},\n\n  {\"type\": \"x\"}]}";
        let json = told("d.json", json);
        assert!(json.contains("d.json, line 4: ") && json.contains("layer 2: "), "{json}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
