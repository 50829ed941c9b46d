//! How many tokens prompts and outputs have: fixed, or drawn from a distribution by seed and request number.

use std::str::FromStr;

use rand::{Rng as _, rngs::StdRng};

/// The longest length that a draw gives; distributions with long tails are cut here.
const LONGEST: f64 = 1e6;

/// A distribution of lengths in tokens, all at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lengths {
    /// Always this many.
    Fixed(u32),
    /// Geometric with this mean: the memoryless choice, as if each token ended the text with the same chance.
    Geometric(f64),
    /// Lognormal with this median and this standard deviation of the logarithm; real prompts look like it.
    LogNormal {
        /// Half of the lengths are below it.
        median: f64,
        /// Spread; 0 is fixed, 1 has a mean of 1.65 medians.
        sigma: f64,
    },
}

impl Lengths {
    /// Draws one length.
    pub fn draw(&self, random: &mut StdRng) -> u32 {
        let length = match *self {
            Self::Fixed(length) => f64::from(length),
            Self::Geometric(mean) => {
                let uniform: f64 = random.random();
                // Inverse of the distribution function 1 − (1 − 1/mean)^k.
                ((1.0 - uniform).ln() / (1.0 - 1.0 / mean).ln()).ceil()
            }
            Self::LogNormal { median, sigma } => (median.ln() + sigma * normal(random)).exp().round(),
        };
        // NaN cannot come out: a mean of 1 divides by −∞ and gives 0.
        length.clamp(1.0, LONGEST) as u32
    }
}

/// A standard normal draw (Box and Muller, 1958).
fn normal(random: &mut StdRng) -> f64 {
    let radius: f64 = random.random();
    let angle: f64 = random.random();
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Why a text is no distribution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("length {0:?} is not TOKENS, geometric:MEAN or lognormal:MEDIAN:SIGMA, with tokens from 1")]
pub struct BadLengths(String);

impl FromStr for Lengths {
    type Err = BadLengths;

    fn from_str(text: &str) -> Result<Self, BadLengths> {
        let bad = || BadLengths(text.to_owned());
        let number = |text: &str, least: f64| {
            text.parse::<f64>().ok().filter(|value| *value >= least && *value <= LONGEST).ok_or_else(bad)
        };
        match text.split(':').collect::<Vec<_>>()[..] {
            [tokens] => tokens.parse().ok().filter(|tokens| *tokens > 0).map(Self::Fixed).ok_or_else(bad),
            ["geometric", mean] => Ok(Self::Geometric(number(mean, 1.0)?)),
            ["lognormal", median, sigma] => {
                Ok(Self::LogNormal { median: number(median, 1.0)?, sigma: number(sigma, 0.0)? })
            }
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::Lengths;

    #[test]
    fn draws_have_the_mean_or_median_asked_for() {
        let mut random = StdRng::seed_from_u64(1);
        let mut draw = |text: &str| {
            let lengths: Lengths = text.parse().unwrap();
            let mut drawn: Vec<u32> = (0..20_000).map(|_| lengths.draw(&mut random)).collect();
            drawn.sort_unstable();
            (drawn.iter().map(|length| f64::from(*length)).sum::<f64>() / 20_000.0, drawn[10_000], drawn[0])
        };
        let (mean, _, least) = draw("geometric:100");
        assert!((mean / 100.0 - 1.0).abs() < 0.05 && least >= 1, "{mean} {least}");
        let (mean, median, _) = draw("lognormal:1000:1");
        assert!((f64::from(median) / 1000.0 - 1.0).abs() < 0.05, "{median}");
        assert!((mean / 1648.7 - 1.0).abs() < 0.08, "{mean}");
        assert_eq!(draw("geometric:1"), (1.0, 1, 1));
        assert_eq!(draw("77"), (77.0, 77, 77));
    }

    #[test]
    fn text_that_is_no_distribution_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "geometric",
            "geometric:0.5",
            "lognormal:5",
            "lognormal:0:1",
            "x:1",
            "geometric:NaN",
        ] {
            assert!(text.parse::<Lengths>().is_err(), "{text:?} was taken");
        }
    }
}
