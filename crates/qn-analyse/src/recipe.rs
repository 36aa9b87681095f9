use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use qn_run::folder_name;
use qn_train::{Settings, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Dtype;

/// An experiment: some runs, and how each is analysed.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Also the folder under runs/.
    pub(crate) name: String,
    /// One line for the reader.
    pub(crate) description: String,
    /// What is trained.
    pub(crate) runs: Vec<RecipeRun>,
    /// What is asked of the spectrum, if anything.
    pub(crate) eigen: Option<EigenRecipe>,
    /// What is followed along training, if anything.
    pub(crate) track: Option<TrackRecipe>,
    /// The paper's numbers, by the run's name in the recipe.
    pub(crate) paper: BTreeMap<String, PaperNumbers>,
    /// Pairs of names: SGD, and what it is compared with.
    pub(crate) compare: Vec<(String, String)>,
}

/// One training run.
#[derive(Clone, Debug)]
pub(crate) struct RecipeRun {
    /// As the recipe calls it; runs that differ in their seed share it.
    pub(crate) group: String,
    /// The folder: the group, and the seed where there are several.
    pub(crate) name: String,
    pub(crate) settings: Settings,
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

/// Options of `track` that a recipe may set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrackRecipe {
    pub(crate) samples: Option<usize>,
    #[serde(default)]
    pub(crate) dtype: Dtype,
    pub(crate) tol: Option<f64>,
}

/// What the paper prints about a run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaperNumbers {
    /// Accuracy on the test split.
    #[serde(default, alias = "val-accuracy", skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Mean cross-entropy of the test split, in nats.
    #[serde(default, alias = "val-loss", skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// The accuracy where the table's columns are exchanged, as the paper's text says.
    #[serde(default, alias = "swapped-val-accuracy", skip_serializing_if = "Option::is_none")]
    pub swapped_val_accuracy: Option<f64>,
    /// Mean |cosine| of class gradients and eigenvectors, assigned.
    #[serde(default, alias = "assigned-cosine", skip_serializing_if = "Option::is_none")]
    pub assigned_cosine: Option<f64>,
}

/// A recipe as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    description: String,
    /// Every run once with each.
    #[serde(default)]
    seeds: Vec<u64>,
    /// Options that all runs have.
    #[serde(default)]
    common: toml::Table,
    runs: BTreeMap<String, toml::Table>,
    eigen: Option<EigenRecipe>,
    track: Option<TrackRecipe>,
    #[serde(default)]
    paper: BTreeMap<String, PaperNumbers>,
    #[serde(default)]
    compare: Vec<(String, String)>,
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
        Self::parse(&text)
            .map_err(|reason| Usage(format!("{} is not a valid recipe: {reason}", path.display())).into())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let words = |e: toml::de::Error| e.to_string().trim().to_owned();
        let written: Written = toml::from_str(text).map_err(words)?;
        let Written { name, description, seeds, common, runs: tables, eigen, track, paper, compare } =
            written;
        let named = paper.keys().chain(compare.iter().flat_map(|(a, b)| [a, b]));
        if let Some(unknown) = named.into_iter().find(|name| !tables.contains_key(*name)) {
            return Err(format!("there is no [runs.{unknown}]"));
        }
        // Folders are named after them.
        if let Some(name) = tables.keys().chain([&name]).find(|name| folder_name(name) != **name) {
            return Err(format!(
                "the name '{name}' has more in it than letters, digits, -, _ and ., or begins with a dot"
            ));
        }
        let mut runs = Vec::new();
        for (group, own) in tables {
            let mut table = common.clone();
            table.extend(own);
            qn_run::convert_former_options(&mut table);
            let settings: Settings = table.try_into().map_err(|e| format!("[runs.{group}]: {}", words(e)))?;
            if seeds.is_empty() {
                runs.push(RecipeRun { name: group.clone(), group, settings });
                continue;
            }
            for &seed in &seeds {
                let name = format!("{group}-seed{seed}");
                let settings = Settings { seed, ..settings.clone() };
                runs.push(RecipeRun { group: group.clone(), name, settings });
            }
        }
        if runs.is_empty() {
            return Err("it has no [runs.NAME]".into());
        }
        Ok(Self { name, description, runs, eigen, track, paper, compare })
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
name = "x"
description = "y"
seeds = [3, 5]
compare = [["a", "b"]]
[common]
lr = 0.5
epochs = 2
[runs.a]
lr = 0.25
[runs.b]
optimizer = "qn"
[paper.b]
val-accuracy = 0.9
"#;

    #[test]
    fn runs_have_the_common_options_and_every_seed() {
        let recipe = Recipe::parse(TEXT).unwrap();
        let found: Vec<_> =
            recipe.runs.iter().map(|r| (r.name.as_str(), r.settings.lr, r.settings.seed)).collect();
        assert_eq!(
            found,
            [("a-seed3", 0.25, 3), ("a-seed5", 0.25, 5), ("b-seed3", 0.5, 3), ("b-seed5", 0.5, 5)]
        );
        assert!(recipe.runs.iter().all(|r| r.settings.epochs == Some(2)));
        assert_eq!(recipe.paper["b"].val_accuracy, Some(0.9));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |from: &str, to: &str| Recipe::parse(&TEXT.replace(from, to)).unwrap_err();
        assert!(message("[paper.b]", "[paper.c]").contains("[runs.c]"));
        assert!(message(r#"["a", "b"]"#, r#"["a", "d"]"#).contains("[runs.d]"));
        assert!(message("lr = 0.25", "rl = 0.25").contains("[runs.a]"));
        assert!(message("seeds", "seed").contains("seed"));
        assert!(message("[runs.a]", "[runs.\"../a\"]").contains("[runs.a]"), "compare names it");
        assert!(message("name = \"x\"", "name = \"../x\"").contains("'../x'"));
        assert!(message("[runs.b]", "[runs.b]\n[runs.\"c/d\"]").contains("'c/d'"));
    }

    /// Every recipe of the repository can be read, and its options make sense.
    #[test]
    fn committed_recipes_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../analysis/recipes");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let recipe = Recipe::find(file.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"));
            assert!(file.ends_with(format!("{}.toml", recipe.name)), "{}", file.display());
        }
    }
}
