//! What weights alone say: the static cost, and each backend's share of the capacity.

use lb_common::pick::{COST_MAX, COST_ONE};

use super::terms::Input;

/// The weight of a nominal backend.
const NOMINAL_WEIGHT: u64 = 100;

/// Shares are in parts of this.
const WHOLE: u64 = 1 << 16;

/// The cost of a weight, `1..=COST_MAX`; weight 0 takes no flows and costs the most.
pub(super) fn static_cost(weight: u32) -> u32 {
    let cost = (u64::from(COST_ONE) * NOMINAL_WEIGHT).checked_div(u64::from(weight));
    cost.map_or(COST_MAX, |cost| cost.clamp(1, u64::from(COST_MAX)) as u32)
}

/// The sum of the weights that shares are taken of.
pub(super) fn usable_weight(inputs: &[Input]) -> u64 {
    inputs.iter().filter(|input| input.usable).map(|input| u64::from(input.weight)).sum()
}

/// A backend's part of `total` in 65,536ths; 0 when it is not usable.
pub(super) fn share(input: &Input, total: u64) -> u32 {
    if !input.usable {
        return 0;
    }
    (u64::from(input.weight) * WHOLE).checked_div(total).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use lb_common::pick::{COST_MAX, COST_ONE};

    use super::static_cost;

    #[test]
    fn a_weight_divides_the_cost() {
        let cases = [
            (100, COST_ONE),
            (200, COST_ONE / 2),
            (50, COST_ONE * 2),
            (1000, COST_ONE / 10),
            (1, COST_MAX),
            (0, COST_MAX),
            (u32::MAX, 1),
        ];
        for (weight, cost) in cases {
            assert_eq!(static_cost(weight), cost, "weight {weight}");
        }
    }
}
