//! Finding a network's parameters among the tensors of a file.
//!
//! Who wraps a network (DataParallel, torch.compile, Lightning) puts a prefix before all of its names, who saves more than
//! a network puts its state_dict into a dictionary. Both are one here, as a tensor's name begins with its dictionaries:
//! a network is in the file as often as there are prefixes with which all of its names are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qn_model::ParamLayout;

use crate::{RunError, Tensor, TensorFile};

/// Parameters and running statistics of a network, in double precision.
#[derive(Clone, Debug, PartialEq)]
pub struct StateDict {
    /// θ in layout order, [P].
    pub parameters: Vec<f64>,
    /// Running statistics, in the layout's order of buffers.
    pub buffers: Vec<Vec<f64>>,
    /// What was chosen, left off and left out on the way, in sentences.
    pub notes: Vec<String>,
}

/// Words of a prefix under which other parameters lie than those a training ended with.
const SECONDARY: [&str; 9] = ["ema", "swa", "avg", "averaged", "shadow", "teacher", "best", "initial", "old"];

/// How many names a message lists.
const LISTED: usize = 60;

struct Search<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    expected: Vec<(&'a str, Vec<usize>)>,
}

/// A network's parameters in a checkpoint of ours or in the tensors of another program, whatever prefix they have.
/// Tensors of whole numbers or without dimensions (counters, accuracies) are nobody's parameters.
///
/// # Errors
/// Tensors are missing, surplus, of another shape, or not finite: all are named.
pub fn state_dict(file: &TensorFile, path: &Path, layout: &ParamLayout) -> Result<StateDict, RunError> {
    let params = layout.params().iter().map(|p| (p.name.as_str(), p.shape.clone()));
    let buffers = layout.buffers().iter().map(|b| (b.name.as_str(), vec![b.len]));
    let search = Search { tensors: &file.tensors, expected: params.chain(buffers).collect() };
    let matches = search.prefixes();
    let complete: Vec<&str> = search.complete(&matches);
    let nearest = || matches.iter().max_by_key(|(prefix, n)| (**n, std::cmp::Reverse(rank(prefix))));
    let prefix = match complete.first() {
        Some(prefix) => prefix,
        None => nearest().map_or("", |(prefix, _)| prefix),
    };
    let surplus = search.surplus(prefix, &complete);
    if let Some(reason) = search.misfit(prefix, &surplus) {
        return Err(RunError::invalid(path, reason));
    }
    let mut values = Vec::with_capacity(search.expected.len());
    for (name, shape) in &search.expected {
        let name = format!("{prefix}{name}");
        let numbers = file.get(path, &name, shape)?.to_f64().unwrap_or_default();
        if let Some(i) = numbers.iter().position(|v| !v.is_finite()) {
            return Err(RunError::invalid(path, format!("'{name}' holds {} at entry {i}", numbers[i])));
        }
        values.push(numbers);
    }
    let buffers = values.split_off(layout.params().len());
    let notes = search.notes(path, prefix, &complete);
    Ok(StateDict { parameters: values.concat(), buffers, notes })
}

impl<'a> Search<'a> {
    /// Every prefix with which an expected name is there, with the number of those that are.
    fn prefixes(&self) -> BTreeMap<&'a str, usize> {
        let mut found = BTreeMap::new();
        for key in self.tensors.keys() {
            for (name, _) in &self.expected {
                let prefix = key.strip_suffix(name).filter(|p| p.is_empty() || p.ends_with(['.', '/']));
                if let Some(prefix) = prefix {
                    *found.entry(prefix).or_insert(0) += 1;
                }
            }
        }
        found
    }

    /// The prefixes with which every expected name is there in its shape, that of the network itself first.
    fn complete(&self, matches: &BTreeMap<&'a str, usize>) -> Vec<&'a str> {
        let fits = |prefix: &str| {
            let shape = |name: &str| self.tensors.get(&format!("{prefix}{name}")).map(Tensor::shape);
            self.expected.iter().all(|(name, expected)| shape(name) == Some(expected))
        };
        let all = matches.iter().filter(|(_, n)| **n == self.expected.len());
        let mut found: Vec<&str> = all.map(|(prefix, _)| *prefix).filter(|prefix| fits(prefix)).collect();
        found.sort_by_key(|prefix| rank(prefix));
        found
    }

    /// Tensors that are to the network as its own are, but are not expected.
    fn surplus(&self, prefix: &str, complete: &[&str]) -> Vec<&'a str> {
        let known: BTreeSet<&str> = self.expected.iter().map(|(name, _)| *name).collect();
        let others: Vec<&&str> =
            complete.iter().filter(|o| o.len() > prefix.len() && o.starts_with(prefix)).collect();
        let is_surplus = |key: &str, tensor: &Tensor| {
            let Some(name) = key.strip_prefix(prefix) else { return false };
            let elsewhere = name.contains('/') || others.iter().any(|other| key.starts_with(**other));
            !elsewhere && !known.contains(name) && !is_counter(tensor) && !key.starts_with("optimizer.")
        };
        self.tensors
            .iter()
            .filter(|(key, tensor)| is_surplus(key, tensor))
            .map(|(key, _)| key.as_str())
            .collect()
    }

    /// What does not fit the architecture, or none if all does.
    fn misfit(&self, prefix: &str, surplus: &[&str]) -> Option<String> {
        let (mut missing, mut shapes) = (Vec::new(), Vec::new());
        for (name, expected) in &self.expected {
            match self.tensors.get(&format!("{prefix}{name}")).map(Tensor::shape) {
                None => missing.push(format!("{name} {expected:?}")),
                Some(found) if found != expected => {
                    shapes.push(format!("'{name}' has shape {found:?}, expected {expected:?}"));
                }
                Some(_) => {}
            }
        }
        if missing.is_empty() && surplus.is_empty() && shapes.is_empty() {
            return None;
        }
        let shape = |name: &&str| self.tensors.get(*name).map(Tensor::shape).unwrap_or_default();
        let surplus: Vec<String> = surplus.iter().map(|name| format!("{name} {:?}", shape(name))).collect();
        let mut reason = format!(
            "it does not fit the architecture (missing: {}; surplus: {}",
            list(&missing),
            list(&surplus)
        );
        if !shapes.is_empty() {
            reason += &format!("; of another shape: {}", list(&shapes));
        }
        if !prefix.is_empty() {
            reason += &format!("; looked for under the prefix '{prefix}'");
        }
        Some(reason + ")")
    }

    fn notes(&self, path: &Path, prefix: &str, complete: &[&str]) -> Vec<String> {
        let mut notes = Vec::new();
        if !prefix.is_empty() {
            notes.push(format!("{}: the network's tensors are those under '{prefix}'", path.display()));
        }
        if let Some(others) = complete.get(1..).filter(|others| !others.is_empty()) {
            let others: Vec<String> = others.iter().map(|other| format!("'{other}'")).collect();
            notes.push(format!(
                "{}: those under {} would fit as well; to use them, save them by themselves",
                path.display(),
                list(&others)
            ));
        }
        let dictionary = &prefix[..prefix.rfind('/').map_or(0, |end| end + 1)];
        let left = |key: &str, tensor: &Tensor| {
            let beside = key.strip_prefix(dictionary).is_some_and(|name| !name.contains('/'));
            beside
                && !key.starts_with(prefix)
                && !is_counter(tensor)
                && !complete.iter().any(|other| key.starts_with(*other))
        };
        let left: Vec<String> =
            self.tensors.iter().filter(|(k, t)| left(k, t)).map(|(k, _)| k.clone()).collect();
        if !left.is_empty() {
            notes.push(format!(
                "{}: left out, as the architecture has none of them: {}",
                path.display(),
                list(&left)
            ));
        }
        notes
    }
}

/// Sorts prefixes: those of the network itself come first, and of these the shortest.
fn rank(prefix: &str) -> (bool, usize) {
    let secondary = prefix.split(['.', '/', '_']).any(|word| SECONDARY.contains(&word));
    (secondary, prefix.matches(['.', '/']).count())
}

fn is_counter(tensor: &Tensor) -> bool {
    tensor.shape().is_empty() || !tensor.is_float()
}

fn list(names: &[String]) -> String {
    match names.len().checked_sub(LISTED) {
        _ if names.is_empty() => "none".into(),
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..LISTED].join(", ")),
    }
}
