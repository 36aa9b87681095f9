use crate::microbatches::Microbatches;

/// What a thread does at a stretch: microbatches whose derivatives are summed before they are added to a total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The class of all its samples, where they are ordered by class.
    pub(super) class: usize,
    /// How many jobs of the class come before it.
    pub(super) index: usize,
    /// The samples of each microbatch.
    pub(super) batches: Vec<Vec<usize>>,
}

impl Job {
    /// All samples, in their order, in microbatches of so many; `work` is that of [`Microbatches::new`].
    pub(super) fn in_order(samples: usize, microbatch: usize, work: f64) -> Vec<Self> {
        let all: Vec<usize> = (0..samples).collect();
        Self::of_class(0, &all, microbatch, work)
    }

    /// All samples, class after class.
    pub(super) fn by_class(labels: &[u32], classes: usize, (microbatch, work): (usize, f64)) -> Vec<Self> {
        let mut members = vec![Vec::new(); classes];
        labels.iter().enumerate().for_each(|(i, &label)| members[label as usize].push(i));
        let of = |(class, members): (usize, &Vec<usize>)| Self::of_class(class, members, microbatch, work);
        members.iter().enumerate().flat_map(of).collect()
    }

    fn of_class(class: usize, members: &[usize], microbatch: usize, work: f64) -> Vec<Self> {
        if members.is_empty() {
            return Vec::new();
        }
        let cut = Microbatches::new(members.len(), microbatch, work);
        let batches = |task| cut.batches_of(task).map(|batch| members[cut.samples_of(batch)].to_vec());
        (0..cut.tasks()).map(|index| Self { class, index, batches: batches(index).collect() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_a_job_of_its_class() {
        let labels: Vec<u32> = (0..700).map(|i| i * i % 5).collect();
        let jobs = Job::by_class(&labels, 6, (16, 1.0));
        let mut seen = vec![false; labels.len()];
        for job in &jobs {
            for &i in job.batches.iter().flatten() {
                assert_eq!(labels[i] as usize, job.class);
                assert!(!std::mem::replace(&mut seen[i], true));
            }
            assert!(job.batches.iter().all(|batch| (1..=16).contains(&batch.len())));
        }
        assert!(seen.into_iter().all(|seen| seen));
        assert!(
            jobs.windows(2).all(|w| w[1].index == if w[1].class == w[0].class { w[0].index + 1 } else { 0 })
        );
        assert_eq!(Job::in_order(40, 16, f64::INFINITY).len(), 3);
    }
}
