//! The entries of θ that belong together: layers, and the queries, keys and values of attention.

use std::ops::Range;

use qn_model::{ParamLayout, Parameter};

/// The parameters of a layer, or of an attention layer those that make queries, keys or values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// The name of the parameters up to the last dot, with `.query`, `.key` or `.value` behind it.
    pub(crate) name: String,
    /// Where they are in θ.
    pub(crate) ranges: Vec<Range<usize>>,
}

impl Part {
    /// Number of parameters.
    pub(crate) fn len(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    /// Whether an entry of θ belongs to it.
    pub(crate) fn contains(&self, i: usize) -> bool {
        self.ranges.iter().any(|range| range.contains(&i))
    }

    /// Σ x² over its entries.
    pub(crate) fn squares(&self, v: &[f64]) -> f64 {
        self.ranges.iter().flat_map(|range| &v[range.clone()]).map(|x| x * x).sum()
    }
}

/// All parts, in the order of their first parameters.
pub(crate) fn parts(layout: &ParamLayout) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (name, range) in layout.params().iter().flat_map(pieces) {
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => match part.ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => part.ranges.push(range),
            },
            None => parts.push(Part { name, ranges: vec![range] }),
        }
    }
    parts
}

/// The part that a tensor belongs to, or the three of PyTorch's `in_proj_weight` and `in_proj_bias`, whose rows are those of
/// queries, keys and values one behind the other.
fn pieces(param: &Parameter) -> Vec<(String, Range<usize>)> {
    let (layer, third) = (param.layer(), param.len() / 3);
    match param.name.strip_prefix(layer).unwrap_or_default() {
        ".in_proj_weight" | ".in_proj_bias" if param.shape[0].is_multiple_of(3) => ["query", "key", "value"]
            .into_iter()
            .zip((param.offset..).step_by(third))
            .map(|(what, start)| (format!("{layer}.{what}"), start..start + third))
            .collect(),
        _ => vec![(layer.to_owned(), param.range())],
    }
}

#[cfg(test)]
mod tests {
    use qn_model::{Graph, ParamKind, Shape};

    use super::*;

    #[test]
    fn attention_has_three_parts_and_every_parameter_is_in_one() {
        let mut graph = Graph::empty("attention", Shape::new([2]));
        for (name, shape) in [
            ("a.in_proj_weight", vec![6, 2]),
            ("a.in_proj_bias", vec![6]),
            ("a.out.weight", vec![2, 2]),
            ("a.out.bias", vec![2]),
            ("scale", vec![1]),
        ] {
            graph.parameter(name, shape, ParamKind::NormShift);
        }
        let found = parts(graph.layout());
        let expected = [
            ("a.query", &[(0, 4), (12, 14)][..]),
            ("a.key", &[(4, 8), (14, 16)]),
            ("a.value", &[(8, 12), (16, 18)]),
            ("a.out", &[(18, 24)]),
            ("scale", &[(24, 25)]),
        ];
        let part = |(name, ends): (&str, &[(usize, usize)])| Part {
            name: name.to_owned(),
            ranges: ends.iter().map(|&(start, end)| start..end).collect(),
        };
        assert_eq!(found, expected.map(part));
        assert_eq!(found.iter().map(Part::len).sum::<usize>(), graph.layout().len());
        assert!(found[0].contains(13) && !found[0].contains(4));
        let v: Vec<f64> = (0..25).map(f64::from).collect();
        assert_eq!(found[1].squares(&v), [4.0, 5.0, 6.0, 7.0, 14.0, 15.0].iter().map(|x| x * x).sum::<f64>());
    }
}
