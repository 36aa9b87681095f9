use std::path::PathBuf;

/// What can be wrong with a description of a network.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The name is neither a preset nor a file.
    #[error("unknown architecture '{name}': use one of the presets ({presets}) or a .toml or .json file")]
    UnknownPreset {
        /// The name as given.
        name: String,
        /// The presets there are.
        presets: String,
    },
    /// The file cannot be read.
    #[error("cannot read architecture file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: std::io::Error,
    },
    /// The file is not a description of a network.
    #[error("{path} is not a valid architecture: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A layer in a file is none, or does not fit what comes before it.
    #[error("{path}, line {line}: {error}")]
    At {
        /// The file.
        path: PathBuf,
        /// The line on which the layer begins, from 1; of a layer in another one, that of the outer one.
        line: usize,
        /// What is wrong.
        error: Box<Self>,
    },
    /// A layer does not fit what comes before it.
    #[error("architecture '{architecture}', layer {layer}: {reason}")]
    Layer {
        /// The architecture's name.
        architecture: String,
        /// The number of the layer, or of the outer one it is in, from 0.
        index: usize,
        /// The layer's position and kind, like `3 (linear fc1)`, or `2 (residual), in it 1 (linear fc1)`.
        layer: String,
        /// What does not fit.
        reason: String,
    },
    /// Nothing has such a name.
    #[error("no {what} is called '{pattern}': there are {names}")]
    NoName {
        /// What was to be named: a parameter, say.
        what: &'static str,
        /// The pattern as given.
        pattern: String,
        /// The names there are.
        names: String,
    },
    /// A pattern of names cannot be read.
    #[error("'{pattern}' is no pattern of names: {reason}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The network as a whole is unusable.
    #[error("architecture '{architecture}': {reason}")]
    Network {
        /// The architecture's name.
        architecture: String,
        /// What is wrong.
        reason: String,
    },
}
