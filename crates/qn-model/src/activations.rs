//! The values between a network's layers, as variables of its loss.

use crate::patterns::matching;
use crate::{Binary, Graph, ModelError, Op, ParamKind, ValueId};

/// A value between a network's layers: its input, what a layer with parameters reads, or its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInput {
    /// `input`, `LAYER.input` with the first layer that reads it, or `output`. Of a layer that is used several times the further
    /// inputs end in `.2`, `.3` and so on.
    pub name: String,
    /// The value.
    pub value: ValueId,
    /// The layers with parameters that read it, in order.
    pub read_by: Vec<String>,
}

impl Graph {
    /// The name that [`Self::with_offset`] gives its parameter.
    pub const OFFSET: &'static str = "activation.offset";

    /// The values that depend on the network's input and have derivatives: its input unless that is of integers, what each
    /// layer with parameters of its own reads, and its output, in order of evaluation. Operations on a parameter as a value, as
    /// the sum with learnt positions, are not layers.
    ///
    /// # Examples
    /// ```
    /// use qn_model::{Graph, Preset};
    ///
    /// let graph = Graph::new(&Preset::Lenet.architecture([3, 32, 32], 10))?;
    /// let inputs = graph.layer_inputs();
    /// let names: Vec<&str> = inputs.iter().map(|at| at.name.as_str()).collect();
    /// assert_eq!(names, ["input", "conv2.input", "fc1.input", "fc2.input", "fc3.input", "output"]);
    /// assert_eq!(inputs[0].read_by, ["conv1"]);
    /// # Ok::<(), qn_model::ModelError>(())
    /// ```
    pub fn layer_inputs(&self) -> Vec<LayerInput> {
        let output = self.nodes().len();
        let mut found: Vec<LayerInput> = Vec::new();
        for (value, read_by) in self.layers_reading().into_iter().enumerate() {
            let name = match read_by.first() {
                _ if value == 0 => "input".to_owned(),
                _ if value == output => "output".to_owned(),
                Some(layer) => format!("{layer}.input"),
                None => continue,
            };
            // A layer that is used several times reads several values.
            let same = |at: &&LayerInput| at.value != 0 && at.read_by.first() == read_by.first();
            let name = match found.iter().filter(same).count() {
                before if before > 0 && value != 0 && value != output => format!("{name}.{}", before + 1),
                _ => name,
            };
            found.push(LayerInput { name, value, read_by });
        }
        let depends = self.depending_on_input();
        let integers = self.input_is_of_integers();
        found.retain(|at| depends[at.value] && !(at.value == 0 && integers));
        found
    }

    /// Those of the [layer inputs](Self::layer_inputs) whose names match one of the glob patterns; all where there are none.
    ///
    /// # Errors
    /// A pattern cannot be read, or matches no name.
    pub fn layer_inputs_named<S: AsRef<str>>(&self, patterns: &[S]) -> Result<Vec<LayerInput>, ModelError> {
        let inputs = self.layer_inputs();
        if patterns.is_empty() {
            return Ok(inputs);
        }
        let names: Vec<&str> = inputs.iter().map(|at| at.name.as_str()).collect();
        let taken = matching("activation", &names, patterns)?;
        Ok(inputs.into_iter().zip(taken).filter_map(|(at, taken)| taken.then_some(at)).collect())
    }

    /// Of each value, the layers with parameters that read it as real numbers.
    fn layers_reading(&self) -> Vec<Vec<String>> {
        let mut layers = vec![Vec::new(); self.nodes().len() + 1];
        for node in self.nodes().iter().filter(|node| !matches!(node.op, Op::Embedding { .. })) {
            let Some(&first) = node.op.params().first() else { continue };
            let layer = self.layout().param(first).layer();
            for &value in &node.inputs {
                let layers = &mut layers[self.before_reshaping(value)];
                if layers.last().is_none_or(|last| last != layer) {
                    layers.push(layer.to_owned());
                }
            }
        }
        layers
    }

    /// The value whose numbers these are, in the shape that it has where it is computed.
    fn before_reshaping(&self, value: ValueId) -> ValueId {
        match value.checked_sub(1).map(|i| &self.nodes()[i]) {
            Some(node) if matches!(node.op, Op::Reshape(_)) && self.readers(node.inputs[0]) == 1 => {
                self.before_reshaping(node.inputs[0])
            }
            _ => value,
        }
    }

    /// Of each value, whether it is another one for another input.
    fn depending_on_input(&self) -> Vec<bool> {
        let mut depends = vec![true];
        for node in self.nodes() {
            depends.push(node.inputs.iter().any(|&value| depends[value]));
        }
        depends
    }

    /// Whether a table or an axis is indexed by the network's input, or by some of its entries.
    fn input_is_of_integers(&self) -> bool {
        self.nodes().iter().any(|node| match node.op {
            Op::Embedding { .. } => self.is_of_input(node.inputs[0]),
            Op::Gather { .. } => self.is_of_input(node.inputs[1]),
            _ => false,
        })
    }

    /// Whether a value's numbers are the input's, in another order or shape.
    fn is_of_input(&self, value: ValueId) -> bool {
        let Some(node) = value.checked_sub(1).map(|i| &self.nodes()[i]) else { return true };
        match node.op {
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Expand(_)
            | Op::Slice { .. }
            | Op::IndexSelect { .. }
            | Op::Concat { .. } => node.inputs.iter().any(|&value| self.is_of_input(value)),
            _ => false,
        }
    }

    /// The network with a parameter z, [`Self::OFFSET`], added to a value of each sample wherever that is read. At z = 0 it is
    /// this network, and derivatives of a mean loss by z are the means over samples of the derivatives by the value.
    ///
    /// # Errors
    /// A parameter has that name already, or the network becomes larger than the program can represent.
    pub fn with_offset(&self, value: ValueId) -> Result<Self, ModelError> {
        self.try_offset(value)
            .map_err(|reason| ModelError::Network { architecture: self.name().to_owned(), reason })
    }

    fn try_offset(&self, value: ValueId) -> Result<Self, String> {
        let mut graph = self.without_operations();
        let shape = self.shape(value).dims().to_vec();
        let offset = graph.parameter(Self::OFFSET, shape, ParamKind::NormShift);
        // Where each value of this network is in the other.
        let mut places = vec![0];
        let add = |graph: &mut Self, at: ValueId| {
            let offset = graph.push(Op::Parameter(offset), vec![])?;
            graph.push(Op::Binary(Binary::Add), vec![at, offset])
        };
        if value == 0 {
            places[0] = add(&mut graph, 0)?;
        }
        for (i, node) in self.nodes().iter().enumerate() {
            let inputs = node.inputs.iter().map(|&v| places[v]).collect();
            let at = graph.push(node.op.clone(), inputs)?;
            places.push(if i + 1 == value { add(&mut graph, at)? } else { at });
        }
        graph.check()?;
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preset, Shape};

    #[test]
    fn a_residual_network_has_each_value_once() {
        let graph = Graph::new(&Preset::Resnet9 { width: 4 }.architecture([3, 32, 32], 10)).unwrap();
        let inputs = graph.layer_inputs();
        let mut names: Vec<&str> = inputs.iter().map(|at| at.name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for at in &inputs {
            let with = graph.with_offset(at.value).unwrap();
            assert_eq!(with.layout().len(), graph.layout().len() + graph.shape(at.value).len());
            assert_eq!(with.output(), graph.output());
            assert_eq!(with.nodes().len(), graph.nodes().len() + 2);
            assert_eq!(with.layout().params()[..graph.layout().params().len()], *graph.layout().params());
        }
    }

    #[test]
    fn a_layer_that_is_used_three_times_has_three_inputs() {
        let mut graph = Graph::empty("cell", Shape::new([3]));
        let weight = graph.parameter("cell.weight", vec![3, 3], ParamKind::Affine { fan_in: 3 });
        let mut value = 0;
        for _ in 0..3 {
            value = graph.push(Op::Linear { weight, bias: None }, vec![value]).unwrap();
        }
        let names: Vec<String> = graph.layer_inputs().into_iter().map(|at| at.name).collect();
        assert_eq!(names, ["input", "cell.input", "cell.input.2", "output"]);
    }

    #[test]
    fn tokens_have_no_derivatives() {
        let mut graph = Graph::empty("tokens", Shape::new([5]));
        let table = graph.parameter("table.weight", vec![7, 3], ParamKind::Normal { std: 1.0 });
        let rows = graph.push(Op::Embedding { weight: table, padding: None }, vec![0]).unwrap();
        let head = graph.parameter("head.weight", vec![2, 3], ParamKind::Affine { fan_in: 3 });
        graph.push(Op::Linear { weight: head, bias: None }, vec![rows]).unwrap();
        let names: Vec<String> = graph.layer_inputs().into_iter().map(|at| at.name).collect();
        assert_eq!(names, ["head.input", "output"]);

        let mut sliced = Graph::empty("all but the last", Shape::new([5]));
        let table = sliced.parameter("table.weight", vec![7, 3], ParamKind::Normal { std: 1.0 });
        let first = sliced.push(Op::Slice { axis: 0, start: 0, end: 4, step: 1 }, vec![0]).unwrap();
        sliced.push(Op::Embedding { weight: table, padding: None }, vec![first]).unwrap();
        assert_eq!(sliced.layer_inputs().iter().map(|at| at.name.as_str()).collect::<Vec<_>>(), ["output"]);

        let twice = graph.with_offset(1).unwrap().with_offset(1).unwrap_err().to_string();
        assert!(twice.contains(Graph::OFFSET), "{twice}");
    }
}
