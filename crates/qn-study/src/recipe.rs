use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use qn_run::{Invalid, folder_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::request::Dtype;

/// An experiment: some runs, and how each is analysed.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Also the folder under runs/.
    pub name: String,
    /// One line for the reader.
    pub description: String,
    /// What is trained.
    pub runs: Vec<RecipeRun>,
    /// What is asked of the spectrum, if anything.
    pub eigen: Option<EigenRecipe>,
    /// What is followed along training, if anything.
    pub track: Option<TrackRecipe>,
    /// The paper's numbers, by the run's name in the recipe.
    pub paper: BTreeMap<String, PaperNumbers>,
    /// Pairs of names: SGD, and what it is compared with.
    pub compare: Vec<(String, String)>,
}

/// One training run.
#[derive(Clone, Debug)]
pub struct RecipeRun {
    /// As the recipe calls it; runs that differ in their seed share it.
    pub group: String,
    /// The folder: the group, and the seed where there are several.
    pub name: String,
    /// Options of its training, by the names of a command line's options; the rest have their defaults.
    pub options: toml::Table,
}

/// Options of `eigen` that a recipe may set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EigenRecipe {
    /// Eigenpairs wanted.
    pub k: usize,
    /// Whether to find all eigenvalues.
    #[serde(default)]
    pub full: bool,
    /// The first so many; all where absent.
    pub samples: Option<usize>,
    /// Precision of the products.
    #[serde(default)]
    pub dtype: Dtype,
    /// Residuals wanted, relative to the largest |eigenvalue|.
    pub tol: Option<f64>,
}

/// Options of `track` that a recipe may set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackRecipe {
    /// The first so many; all where absent.
    pub samples: Option<usize>,
    /// Precision of the products.
    #[serde(default)]
    pub dtype: Dtype,
    /// Residuals wanted, relative to the largest eigenvalue.
    pub tol: Option<f64>,
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

macro_rules! embedded {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../../analysis/recipes/", $name, ".toml")))),*]
    };
}

/// Recipes that are part of the program, by name.
const EMBEDDED: [(&str, &str); 10] = embedded! {
    "along" "digits" "fig1" "fig1-cpu" "fig2" "fig3" "fig4" "project" "tuned-mnist" "variants"
};

/// Architectures that these recipes name by their files.
pub const EMBEDDED_NETWORKS: [(&str, &str); 1] = [(
    "analysis/networks/resnet9-w16-16px.toml",
    include_str!("../../../analysis/networks/resnet9-w16-16px.toml"),
)];

impl Recipe {
    /// A recipe by name, or by its .toml file.
    ///
    /// # Errors
    /// It is not there, or not valid.
    pub fn find(name: &str) -> Result<Self> {
        let text = if name.ends_with(".toml") {
            std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?
        } else {
            match EMBEDDED.iter().find(|(known, _)| *known == name) {
                Some((_, text)) => (*text).to_owned(),
                None => {
                    let known = EMBEDDED.map(|(name, _)| name).join(", ");
                    bail!(Invalid(format!("no recipe '{name}': there are {known}, or give a .toml file")));
                }
            }
        };
        Self::parse(&text).map_err(|reason| Invalid(format!("{name} is not a valid recipe: {reason}")).into())
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
            if seeds.is_empty() {
                runs.push(RecipeRun { name: group.clone(), group, options: table });
                continue;
            }
            for &seed in &seeds {
                let name = format!("{group}-seed{seed}");
                let mut options = table.clone();
                options.insert("seed".into(), toml::Value::Integer(seed as i64));
                runs.push(RecipeRun { group: group.clone(), name, options });
            }
        }
        if runs.is_empty() {
            return Err("it has no [runs.NAME]".into());
        }
        Ok(Self { name, description, runs, eigen, track, paper, compare })
    }
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
        let number = |r: &RecipeRun, name: &str| match &r.options[name] {
            toml::Value::Integer(i) => *i as f64,
            other => other.as_float().unwrap(),
        };
        let found: Vec<_> =
            recipe.runs.iter().map(|r| (r.name.as_str(), number(r, "lr"), number(r, "seed"))).collect();
        assert_eq!(
            found,
            [("a-seed3", 0.25, 3.0), ("a-seed5", 0.25, 5.0), ("b-seed3", 0.5, 3.0), ("b-seed5", 0.5, 5.0)]
        );
        assert!(recipe.runs.iter().all(|r| number(r, "epochs") == 2.0));
        assert_eq!(recipe.paper["b"].val_accuracy, Some(0.9));
    }

    #[test]
    fn mistakes_are_named() {
        let message = |from: &str, to: &str| Recipe::parse(&TEXT.replace(from, to)).unwrap_err();
        assert!(message("[paper.b]", "[paper.c]").contains("[runs.c]"));
        assert!(message(r#"["a", "b"]"#, r#"["a", "d"]"#).contains("[runs.d]"));
        assert!(message("seeds", "seed").contains("seed"));
        assert!(message("[runs.a]", "[runs.\"../a\"]").contains("[runs.a]"), "compare names it");
        assert!(message("name = \"x\"", "name = \"../x\"").contains("'../x'"));
        assert!(message("[runs.b]", "[runs.b]\n[runs.\"c/d\"]").contains("'c/d'"));
    }

    /// The program has every recipe of the repository, as it is there.
    #[test]
    fn all_recipes_are_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../analysis/recipes");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        let mut embedded: Vec<&str> = EMBEDDED.iter().map(|(name, _)| *name).collect();
        embedded.sort_unstable();
        assert_eq!(names, embedded);
        for (name, _) in EMBEDDED {
            assert_eq!(Recipe::find(name).unwrap().name, name);
        }
    }
}
