//! A pass over all questions within a budget of time: the driver's lock is shared with whoever uses the GPU, and now
//! and then a call takes long.

use std::{ops::ControlFlow, time::Duration};

/// Where the last pass stopped.
#[derive(Debug, Default)]
pub struct Rounds {
    next: usize,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass<E> {
    /// Everything was done.
    Whole,
    /// The budget was used up; the next pass goes on there.
    Short,
    /// A job stopped it.
    Stopped(E),
}

impl Rounds {
    /// Does each of `jobs` at most once, beginning where the last pass stopped, until `spent` says that more than
    /// `budget` has been used. One job is always done, so that every pass gets on.
    pub fn pass<J, E>(
        &mut self,
        jobs: &[J],
        budget: Duration,
        spent: impl Fn() -> Duration,
        mut work: impl FnMut(&J) -> ControlFlow<E>,
    ) -> Pass<E> {
        for done in 0..jobs.len() {
            if done > 0 && spent() > budget {
                return Pass::Short;
            }
            let job = &jobs[self.next % jobs.len()];
            self.next = (self.next + 1) % jobs.len();
            if let ControlFlow::Break(why) = work(job) {
                return Pass::Stopped(why);
            }
        }
        // The order of jobs is their order of importance.
        self.next = 0;
        Pass::Whole
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, ops::ControlFlow, time::Duration};

    use super::{Pass, Rounds};

    const BUDGET: Duration = Duration::from_millis(10);

    /// A pass over five jobs that take `cost` each.
    fn pass(rounds: &mut Rounds, cost: Duration) -> (Pass<()>, Vec<usize>) {
        let (spent, mut did) = (Cell::new(Duration::ZERO), Vec::new());
        let outcome = rounds.pass(
            &[0, 1, 2, 3, 4],
            BUDGET,
            || spent.get(),
            |job| {
                spent.set(spent.get() + cost);
                did.push(*job);
                ControlFlow::Continue(())
            },
        );
        (outcome, did)
    }

    #[test]
    fn a_pass_that_runs_out_of_time_is_continued_by_the_next() {
        let mut rounds = Rounds::default();
        let six = Duration::from_millis(6);
        assert_eq!(pass(&mut rounds, six), (Pass::Short, vec![0, 1]));
        assert_eq!(pass(&mut rounds, six), (Pass::Short, vec![2, 3]));
        assert_eq!(pass(&mut rounds, six), (Pass::Short, vec![4, 0]));
        let one = Duration::from_millis(1);
        assert_eq!(pass(&mut rounds, one), (Pass::Whole, vec![1, 2, 3, 4, 0]));
        assert_eq!(pass(&mut rounds, one), (Pass::Whole, vec![0, 1, 2, 3, 4]));
        assert_eq!(pass(&mut rounds, BUDGET * 2), (Pass::Short, vec![0]), "one is always done");
    }

    #[test]
    fn a_job_stops_the_pass_and_fewer_jobs_are_no_trouble() {
        let mut rounds = Rounds::default();
        let stopped = rounds.pass(
            &[1, 2, 3],
            BUDGET,
            || Duration::ZERO,
            |job| match job {
                2 => ControlFlow::Break("gone"),
                _ => ControlFlow::Continue(()),
            },
        );
        assert_eq!(stopped, Pass::Stopped("gone"));
        let whole = rounds.pass(&[1], BUDGET, || Duration::ZERO, |_| ControlFlow::<()>::Continue(()));
        assert_eq!(whole, Pass::Whole);
        let none = rounds.pass::<u8, ()>(&[], BUDGET, || Duration::ZERO, |_| panic!("there is no job"));
        assert_eq!(none, Pass::Whole);
    }
}
