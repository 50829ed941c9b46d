//! Whether load swings: the spectrum of the servers' load against the mean of them all.

use std::{f64::consts::TAU, time::Duration};

use serde::Serialize;

/// Time between two samples of load: ten a report of the fastest kind.
pub(super) const SAMPLE: Duration = Duration::from_millis(10);

/// Frequencies of the spectrum in Hz: from a swing every ten seconds to ten a second.
const LOWEST: f64 = 0.1;
const HIGHEST: f64 = 10.0;
const STEPS: usize = 80;

/// Frequencies around one that its peak is compared with, as factors.
const NEAR: f64 = 1.1;
const FAR: f64 = 2.0;

/// Power at one frequency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// Frequency in Hz.
    pub hertz: f64,
    /// Mean over servers of the squared amplitude, in requests.
    pub power: f64,
}

/// The spectrum of what each server has more or less than the mean of all; `load` is server by server, a sample
/// each [`SAMPLE`]. Empty when there is too little to see the lowest frequency.
pub(super) fn of(load: &[Vec<f32>]) -> Vec<Line> {
    let samples = load.first().map_or(0, Vec::len);
    let step = SAMPLE.as_secs_f64();
    if (samples as f64) * step < 2.0 / LOWEST || load.len() < 2 {
        return Vec::new();
    }
    let mean: Vec<f64> = (0..samples)
        .map(|at| load.iter().map(|server| f64::from(server[at])).sum::<f64>() / load.len() as f64)
        .collect();
    let ratio = (HIGHEST / LOWEST).powf(1.0 / (STEPS - 1) as f64);
    let spectrum = |number: usize| {
        let hertz = LOWEST * ratio.powi(number as i32);
        let sum: f64 = load.iter().map(|server| power(server, &mean, hertz * step)).sum();
        Line { hertz, power: sum / load.len() as f64 }
    };
    (0..STEPS).map(spectrum).collect()
}

/// The squared amplitude at `turns` a sample, seen through a Hann window.
fn power(server: &[f32], mean: &[f64], turns: f64) -> f64 {
    let count = server.len() as f64;
    let centre = server.iter().zip(mean).map(|(load, mean)| f64::from(*load) - mean).sum::<f64>() / count;
    let (mut real, mut imaginary) = (0.0, 0.0);
    // A rotation by one sample at a time instead of a sine for each.
    let (sine, cosine) = (TAU * turns).sin_cos();
    let (slow_sine, slow_cosine) = (TAU / count).sin_cos();
    let (mut x, mut y, mut u, mut v) = (1.0, 0.0, 1.0, 0.0);
    for (load, mean) in server.iter().zip(mean) {
        let value = (f64::from(*load) - mean - centre) * (1.0 - u);
        real += value * x;
        imaginary += value * y;
        (x, y) = (x * cosine - y * sine, x * sine + y * cosine);
        (u, v) = (u * slow_cosine - v * slow_sine, u * slow_sine + v * slow_cosine);
    }
    (real * real + imaginary * imaginary) * 4.0 / (count * count)
}

/// Power at a frequency over the median of the power near it; 1 is no oscillation. None out of the spectrum's range.
pub(super) fn peak(spectrum: &[Line], hertz: f64) -> Option<f64> {
    let ratio = |line: &&Line| (line.hertz / hertz).max(hertz / line.hertz);
    let at = spectrum.iter().filter(|line| ratio(line) <= NEAR).map(|line| line.power);
    let at = at.fold(None, |most: Option<f64>, power| Some(most.map_or(power, |most| most.max(power))))?;
    let near = spectrum.iter().filter(|line| ratio(line) > NEAR && ratio(line) <= FAR);
    let mut near: Vec<f64> = near.map(|line| line.power).collect();
    near.sort_unstable_by(f64::total_cmp);
    let middle = *near.get(near.len() / 2)?;
    (middle > 0.0).then(|| at / middle)
}

#[cfg(test)]
mod tests {
    use super::{of, peak};

    #[test]
    fn a_swing_shows_at_its_frequency_with_its_amplitude() {
        let load = |sign: f64| -> Vec<f32> {
            let noise = |at: u32| f64::from(at.wrapping_mul(2_654_435_761) >> 16) / 65_536.0;
            let swing = |at: u32| (f64::from(at) * 0.01 * 4.0 * std::f64::consts::TAU).sin();
            (0..6000).map(|at| (10.0 + sign * 3.0 * swing(at) + noise(at)) as f32).collect()
        };
        let spectrum = of(&[load(1.0), load(-1.0)]);
        let largest = spectrum.iter().max_by(|a, b| a.power.total_cmp(&b.power)).unwrap();
        assert!((largest.hertz / 4.0 - 1.0).abs() < 0.05, "{largest:?}");
        assert!(peak(&spectrum, 4.0).unwrap() > 100.0);
        assert!(peak(&spectrum, 1.0).unwrap() < 20.0);
        assert_eq!(peak(&spectrum, 100.0), None);
        assert!(of(&[vec![1.0; 10], vec![1.0; 10]]).is_empty(), "too short");
    }
}
