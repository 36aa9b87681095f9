//! In which order summands are added, whoever computes them.

use std::ops::Range;

/// Summands, or sums, that are added to one.
const FAN: usize = 8;

/// Summands are added eight at a time, their sums eight at a time again, and so on. The order is fixed by the number of
/// summands alone, and a range of them is a few whole sums, so that several processes can share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    leaves: usize,
    fan: usize,
}

/// A sum of the tree: number `index` of those on its level; on level 0 are the summands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    level: usize,
    index: usize,
}

impl Node {
    /// A summand.
    pub fn leaf(index: usize) -> Self {
        Self { level: 0, index }
    }
}

impl Tree {
    /// The tree of so many summands.
    pub fn new(leaves: usize) -> Self {
        Self { leaves, fan: FAN }
    }

    /// Any number of summands, one added after another.
    pub(crate) fn flat() -> Self {
        Self { leaves: usize::MAX, fan: usize::MAX }
    }

    /// Levels of sums, at least one: as many accumulators are needed.
    pub fn depth(&self) -> usize {
        (1..).find(|&level| self.count(level) <= 1).unwrap_or(1)
    }

    /// Sums on a level.
    fn count(&self, level: usize) -> usize {
        (0..level).fold(self.leaves, |count, _| count.div_ceil(self.fan))
    }

    /// The summands of a sum.
    pub fn leaves_of(&self, node: Node) -> Range<usize> {
        let width = (0..node.level).fold(1usize, |width, _| width.saturating_mul(self.fan));
        node.index * width..self.leaves.min((node.index + 1).saturating_mul(width))
    }

    /// The summands that are the part of one of `parts` processes: about as many for each, cut between whole sums where
    /// that changes a part by less than a tenth.
    pub fn part(&self, part: usize, parts: usize) -> Range<usize> {
        let cut = |part: usize| {
            let at = part * self.leaves / parts;
            let aligned = at.div_ceil(self.fan) * self.fan;
            if part < parts && aligned - at <= self.leaves / (10 * parts) {
                aligned.min(self.leaves)
            } else {
                at
            }
        };
        cut(part)..cut(part + 1)
    }

    /// The fewest sums that these summands make up, in their order.
    pub fn nodes(&self, leaves: Range<usize>) -> Vec<Node> {
        let (mut nodes, mut at, top) = (Vec::new(), leaves.start, self.depth());
        while at < leaves.end {
            let at_level = |level: usize| Node { level, index: at / self.fan.pow(level as u32) };
            let fits = |node: &Node| {
                let of = self.leaves_of(*node);
                of.start == at && of.end <= leaves.end
            };
            let node = (1..=top).map(at_level).take_while(fits).last().unwrap_or(Node::leaf(at));
            at = self.leaves_of(node).end;
            nodes.push(node);
        }
        nodes
    }

    /// Adds a sum, behind all those before it, to the accumulators, of which there is one a level; the last one holds the
    /// total once the last sum is added. Their contents are overwritten by the first of each.
    pub fn push(&self, accumulators: &mut [&mut [f64]], node: Node, x: impl ExactSizeIterator<Item = f64>) {
        let Node { mut level, mut index } = node;
        if let Some(first) = accumulators.get_mut(level) {
            add(first, x, index.is_multiple_of(self.fan));
        } else if let Some(total) = accumulators.last_mut() {
            // The root itself.
            return add(total, x, true);
        }
        let ends =
            |level: usize, index: usize| index % self.fan == self.fan - 1 || index + 1 == self.count(level);
        while level + 1 < accumulators.len() && ends(level, index) {
            (level, index) = (level + 1, index / self.fan);
            let (below, above) = accumulators.split_at_mut(level);
            add(above[0], below[level - 1].iter().copied(), index.is_multiple_of(self.fan));
        }
    }
}

fn add(sum: &mut [f64], x: impl Iterator<Item = f64>, first: bool) {
    if first {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum = x);
    } else {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(tree: Tree, pushed: &[(Node, f64)]) -> f64 {
        let mut accumulators = vec![[f64::NAN]; tree.depth()];
        let mut slices: Vec<&mut [f64]> = accumulators.iter_mut().map(|x| &mut x[..]).collect();
        pushed.iter().for_each(|&(node, x)| tree.push(&mut slices, node, std::iter::once(x)));
        accumulators[accumulators.len() - 1][0]
    }

    #[test]
    fn shared_out_sums_have_the_same_bits() {
        let summand = |i: usize| 1.0 / (i as f64 + 0.1).powi(2);
        for leaves in [1, 2, 7, 8, 9, 63, 64, 65, 200, 513] {
            let tree = Tree::new(leaves);
            let all: Vec<(Node, f64)> = (0..leaves).map(|i| (Node::leaf(i), summand(i))).collect();
            let expected = total(tree, &all);
            assert!((expected - all.iter().map(|(_, x)| x).sum::<f64>()).abs() < 1e-12 * expected);
            for parts in [1, 2, 3, 5, 8, 700] {
                let mut found = Vec::new();
                for part in 0..parts {
                    for node in tree.nodes(tree.part(part, parts)) {
                        let own = tree.leaves_of(node);
                        let leaf = |i: usize| (Node::leaf(i - own.start), summand(i));
                        let pushed: Vec<_> = own.clone().map(leaf).collect();
                        found.push((node, total(Tree::new(own.len()), &pushed)));
                    }
                }
                assert_eq!(total(tree, &found).to_bits(), expected.to_bits(), "{leaves} in {parts}");
            }
        }
    }

    #[test]
    fn parts_are_everything_and_even() {
        for (leaves, parts) in [(0, 3), (5, 8), (200, 3), (1000, 7)] {
            let tree = Tree::new(leaves);
            let ranges: Vec<Range<usize>> = (0..parts).map(|part| tree.part(part, parts)).collect();
            assert!(ranges.iter().cloned().flatten().eq(0..leaves));
            assert!(ranges.iter().all(|r| r.len() as f64 <= 1.2 * leaves as f64 / parts as f64 + 1.0));
        }
    }
}
