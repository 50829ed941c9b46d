//! What work costs in a pool: seconds of an engine as a sum over its steps, the tokens that it gives and the
//! prompts that it takes in, by regression over all servers.
//!
//! An engine's step costs something for itself (weights are read once), something for each sequence in it, and
//! something for each prompt that is prefilled in it. The three are learned together and from all servers, each
//! divided by its own slowness, so that batching, the mix of long and short answers and bursts of prompts are not
//! mistaken for speed.

/// Work of a server in some time: steps, units of progress, prompts taken in.
pub(super) type Work = [f64; 3];

const TERMS: usize = 3;

/// How long it remembers: a minute of eight servers with two samples a second.
const KEEP: f64 = 0.999;

/// Samples before it is believed.
const ENOUGH: f64 = 12.0;

/// Keeps the equations solvable where terms move together: as a part of each term's own weight.
const RIDGE: f64 = 1e-4;

/// One pool's costs for one kind of progress. Weighted least squares on relative errors, none of the costs below 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Curve {
    squares: [[f64; TERMS]; TERMS],
    sums: [f64; TERMS],
    samples: f64,
    costs: Work,
}

impl Curve {
    /// Takes in that a server of slowness `theta` took `seconds` for `work`.
    pub(super) fn learn(&mut self, work: &Work, seconds: f64, theta: f64) {
        let row = work.map(|amount| amount * theta / seconds);
        let something = row.iter().sum::<f64>() > 0.0;
        if !something || !row.iter().all(|value| value.is_finite()) {
            return;
        }
        self.samples = self.samples * KEEP + 1.0;
        for (i, square) in self.squares.iter_mut().enumerate() {
            self.sums[i] = self.sums[i] * KEEP + row[i];
            for (j, value) in square.iter_mut().enumerate() {
                *value = *value * KEEP + row[i] * row[j];
            }
        }
        self.solve();
    }

    /// Whether enough was seen to say anything.
    pub(super) fn is_known(&self) -> bool {
        self.samples >= ENOUGH
    }

    /// Seconds that a server of the pool's speed takes for `work`; none while too little is known.
    pub(super) fn seconds(&self, work: &Work) -> Option<f64> {
        let seconds: f64 = work.iter().zip(&self.costs).map(|(amount, cost)| amount * cost).sum();
        (self.is_known() && seconds > 0.0 && seconds.is_finite()).then_some(seconds)
    }

    /// The best of all choices of terms whose costs come out above zero: there are only seven.
    fn solve(&mut self) {
        let mut best = 0.0;
        for choice in 1..1_u32 << TERMS {
            let Some(costs) = self.solve_for(choice) else { continue };
            let explained: f64 = costs.iter().zip(&self.sums).map(|(cost, sum)| cost * sum).sum();
            if explained > best && costs.iter().all(|cost| *cost >= 0.0) {
                (best, self.costs) = (explained, costs);
            }
        }
    }

    /// The normal equations with the terms in `choice`, a bit for each, by elimination.
    fn solve_for(&self, choice: u32) -> Option<Work> {
        let chosen = |term: usize| choice >> term & 1 == 1;
        let (mut matrix, mut right) = (self.squares, self.sums);
        for i in 0..TERMS {
            matrix[i][i] *= 1.0 + RIDGE;
            if !chosen(i) {
                matrix[i] = [0.0; TERMS];
                (0..TERMS).for_each(|j| matrix[j][i] = 0.0);
                (matrix[i][i], right[i]) = (1.0, 0.0);
            }
        }
        // Positive definite, so no pivot needs to be looked for.
        for i in 0..TERMS {
            if matrix[i][i] <= f64::MIN_POSITIVE {
                return None;
            }
            for j in i + 1..TERMS {
                let factor = matrix[j][i] / matrix[i][i];
                let pivot = matrix[i];
                for (value, above) in matrix[j].iter_mut().zip(pivot).skip(i) {
                    *value -= factor * above;
                }
                right[j] -= factor * right[i];
            }
        }
        let mut costs = [0.0; TERMS];
        for i in (0..TERMS).rev() {
            let known: f64 = (i + 1..TERMS).map(|j| matrix[i][j] * costs[j]).sum();
            costs[i] = (right[i] - known) / matrix[i][i];
        }
        costs.iter().all(|cost| cost.is_finite()).then_some(costs)
    }
}

#[cfg(test)]
mod tests {
    use super::{Curve, Work};

    #[test]
    fn costs_of_steps_tokens_and_prompts_are_told_apart_whoever_is_slow() {
        let costs: Work = [6e-3, 70e-6, 17e-6];
        let seconds = |work: &Work| -> f64 { work.iter().zip(&costs).map(|(a, b)| a * b).sum() };
        let mut curve = Curve::default();
        for number in 1..400_u32 {
            let spread = |by: u32| f64::from(number.wrapping_mul(by) % 97 + 3);
            let work = [spread(31), spread(57) * 40.0, spread(83) * 100.0];
            let theta = if number % 2 == 0 { 2.5 } else { 1.0 };
            curve.learn(&work, seconds(&work) * theta, theta);
        }
        let work = [20.0, 900.0, 5000.0];
        let foretold = curve.seconds(&work).unwrap();
        assert!((foretold / seconds(&work) - 1.0).abs() < 0.01, "{foretold} for {}", seconds(&work));
    }

    #[test]
    fn nothing_is_said_on_too_little_or_broken_data() {
        let mut curve = Curve::default();
        curve.learn(&[1.0, 1.0, 0.0], 1.0, 1.0);
        assert_eq!(curve.seconds(&[1.0, 1.0, 1.0]), None);
        for _ in 0..100 {
            curve.learn(&[f64::NAN, 1.0, 1.0], 0.0, 1.0);
        }
        assert_eq!(curve.seconds(&[1.0, 1.0, 1.0]), None);
    }
}
