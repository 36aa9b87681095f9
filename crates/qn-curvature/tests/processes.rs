//! Work that several processes share: every one of them has the bits of one process by itself.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::{N, networks, tangents, theta, with};
use faer::Mat;
use qn_curvature::{CurvatureError, Operator, Options, Processes, Real};
use qn_model::Graph;

/// A thread that stands for a process.
#[derive(Debug)]
struct Peer {
    rank: usize,
    to: Vec<Sender<Vec<f64>>>,
    from: Vec<Mutex<Receiver<Vec<f64>>>>,
}

impl Processes for Peer {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&self, to: usize, x: &[f64]) {
        self.to[to].send(x.to_vec()).unwrap();
    }

    fn receive(&self, from: usize, x: &mut [f64]) {
        x.copy_from_slice(&self.from[from].lock().unwrap().recv().unwrap());
    }

    fn broadcast(&self, x: &mut [f64]) {
        if self.rank == 0 {
            (1..self.size()).for_each(|to| self.send(to, x));
        } else {
            self.receive(0, x);
        }
    }
}

/// So many processes that know each other.
fn peers(size: usize) -> Vec<Peer> {
    let mut peers: Vec<Peer> =
        (0..size).map(|rank| Peer { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..size {
        for to in 0..size {
            let (sender, receiver) = channel();
            peers[from].to.push(sender);
            peers[to].from.push(Mutex::new(receiver));
        }
    }
    peers
}

/// What each of so many processes finds.
fn each<R: Send>(size: usize, find: impl Fn(Arc<dyn Processes>) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let find = &find;
        let running: Vec<_> =
            peers(size).into_iter().map(|peer| scope.spawn(move || find(Arc::new(peer)))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Every number that is a sum over samples, at one network.
fn everything<T: Real>(graph: &Graph, threads: usize, processes: Option<Arc<dyn Processes>>) -> Vec<u64> {
    let mut options = Options { threads, microbatch: Some(1), ..Options::default() };
    options.processes = processes.unwrap_or(options.processes);
    let here = with::<T>(graph, &theta(graph), &options);
    let start = here.loss_and_gradient().unwrap();
    let mut found = vec![start.loss, start.accuracy.unwrap()];
    found.extend(start.gradient);
    let classes = here.class_gradients().unwrap();
    found.extend(classes.rows.into_iter().chain(classes.lambda));
    let x = tangents(here.dim(), 3);
    let mut y = Mat::<f64>::zeros(here.dim(), 3);
    for operator in [Operator::Hessian, Operator::Ggn, Operator::EmpiricalFisher] {
        for _ in ["passes are made", "passes are kept"] {
            here.product(operator, x.as_ref(), y.as_mut()).unwrap();
            found.extend(y.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<f64>>()));
        }
    }
    let u = tangents(N * here.outputs_per_sample(), 2);
    let mut y = Mat::<f64>::zeros(here.dim(), 2);
    here.vjp(u.as_ref(), y.as_mut()).unwrap();
    found.extend(y.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<f64>>()));
    found.into_iter().map(f64::to_bits).collect()
}

fn shared_by_any_number<T: Real>() {
    for arch in networks().into_iter().take(4) {
        let graph = Graph::new(&arch).unwrap();
        let alone = everything::<T>(&graph, 2, None);
        for size in [1, 2, 3, 7, N + 3] {
            let found = each(size, |processes| everything::<T>(&graph, 1 + size % 2, Some(processes)));
            assert!(found.iter().all(|bits| *bits == alone), "{} in {size} processes", arch.name);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_processes() {
    shared_by_any_number::<f64>();
    shared_by_any_number::<f32>();
}

#[test]
fn all_stop_where_one_stops() {
    let graph = Graph::new(&networks()[0]).unwrap();
    let found = each(3, |processes| {
        let stops = processes.rank() == 1;
        let options = Options { threads: 1, microbatch: Some(1), processes, ..Options::default() };
        let here = with::<f64>(&graph, &theta(&graph), &options);
        let x = tangents(here.dim(), 1);
        let mut y = Mat::<f64>::zeros(here.dim(), 1);
        [
            here.loss_and_gradient_unless(&|| stops).err(),
            here.class_gradients_unless(&|| stops).err(),
            here.product_unless(&|| stops, Operator::Hessian, x.as_ref(), y.as_mut()).err(),
        ]
    });
    let stopped = |error: &Option<CurvatureError>| matches!(error, Some(CurvatureError::Stopped));
    assert!(found.iter().flatten().all(stopped));
}
