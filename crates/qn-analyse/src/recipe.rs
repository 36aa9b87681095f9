use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_train::{Settings, Usage};
use serde::Deserialize;

use crate::problem::Dtype;

/// An experiment: some runs, and how each is analysed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Also the folder under runs/.
    pub(crate) name: String,
    /// One line for the reader.
    pub(crate) description: String,
    /// Training options of each run, by name.
    pub(crate) runs: BTreeMap<String, Settings>,
    /// What is asked of the spectrum.
    pub(crate) eigen: EigenRecipe,
}

/// Options of `eigen` that a recipe may set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EigenRecipe {
    pub(crate) k: usize,
    #[serde(default)]
    pub(crate) full: bool,
    pub(crate) samples: Option<usize>,
    #[serde(default)]
    pub(crate) dtype: Dtype,
    pub(crate) tol: Option<f64>,
}

/// Where recipes are looked for by name.
const FOLDER: &str = "analysis/recipes";

impl Recipe {
    /// A recipe by name or by its file.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let path = if name.ends_with(".toml") {
            PathBuf::from(name)
        } else {
            Path::new(FOLDER).join(format!("{name}.toml"))
        };
        if !path.is_file() {
            let known = known_names().join(", ");
            bail!(Usage(format!(
                "no recipe '{name}': {} is not there (recipes here: {known})",
                path.display()
            )));
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let recipe: Self = toml::from_str(&text).map_err(|e| {
            Usage(format!("{} is not a valid recipe: {}", path.display(), e.to_string().trim()))
        })?;
        if recipe.runs.is_empty() {
            bail!(Usage(format!("{} has no [runs.NAME]", path.display())));
        }
        Ok(recipe)
    }
}

fn known_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() {
        names.push("none; run from the repository, or give a .toml file".into());
    }
    names
}
