//! Named GPU profiles: how fast a model decodes and prefills on a GPU, and how much context it holds.
//!
//! Decode lines (`floor`, `per_sequence`) are least-largest-relative-error fits through the published time per
//! output token at batch sizes 1 to 256; what a decode reads of the KV cache is taken out of the slope at the
//! published context (1,024 tokens), as KV bytes per token over the memory bandwidth. Prefill curves are
//! relative least squares through the published times to first token at 256 to 8,192 tokens.
//!
//! Sources: "modelled" is NVIDIA's aiconfigurator 0.12 with its vLLM 0.24 operator data in BF16; "measured" is the
//! silicon sample that ships with it. KV capacity is (0.9 × memory − weights − 2 GB a GPU) / bytes per token, with
//! 128 KiB a token for Llama 3.1 8B and 320 KiB for 70B (FP16 cache). Batch slots and token budgets are the
//! defaults of vLLM's server: 1,024 and 8,192 on H100, 256 and 2,048 on A100 and smaller.

use crate::sim::engine::{BLOCK_TOKENS, EngineConfig, StepCosts};

/// A model on a GPU (or a tensor-parallel group of them).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// Short name for command lines, as `h100-8b`.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// How long steps take.
    pub costs: StepCosts,
    /// KV-cache capacity in tokens.
    pub kv_tokens: u32,
    /// Batch slots.
    pub max_num_seqs: u32,
    /// Tokens per step.
    pub token_budget: u32,
}

/// No profile has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU profile is called {0:?}; there are {known}", known = names())]
pub struct UnknownProfile(String);

impl Profile {
    /// The profile called `name`.
    ///
    /// # Errors
    /// [`UnknownProfile`] lists the names there are.
    pub fn named(name: &str) -> Result<&'static Self, UnknownProfile> {
        PROFILES.iter().find(|profile| profile.name == name).ok_or_else(|| UnknownProfile(name.to_owned()))
    }

    /// The engine of a server started with this profile and no options.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            costs: self.costs,
            kv_blocks: self.kv_tokens / BLOCK_TOKENS,
            max_num_seqs: self.max_num_seqs,
            token_budget: self.token_budget,
        }
    }
}

fn names() -> String {
    PROFILES.map(|profile| profile.name).join(", ")
}

/// All profiles.
pub const PROFILES: [Profile; 5] = [H100_8B, A100_8B, L40S_8B, H100X8_70B, H100X2_70B_FP8];

/// H100 SXM 80 GB, Llama 3.1 8B BF16, modelled. Decode ms at batch 1/8/32/64/128/256:
/// 6.18/6.60/8.34/10.38/12.91/19.72 (fit within 4.3 %); first token ms at 256/1,024/4,096/8,192:
/// 8.73/22.11/90.07/199.7 (within 2.2 %). 3.35 TB/s gives 39.1 ns a KV token.
pub const H100_8B: Profile = Profile {
    name: "h100-8b",
    description: "one H100 80 GB, Llama 3.1 8B BF16",
    costs: StepCosts {
        floor: 6.395e-3,
        per_sequence: 0.0152e-3,
        per_kv_token: 39.1e-9,
        prefill_base: 4.341e-3,
        per_prefill_token: 16.77e-6,
        per_prefill_pair: 0.894e-9,
    },
    kv_tokens: 410_000,
    max_num_seqs: 1024,
    token_budget: 8192,
};

/// A100 SXM 80 GB, Llama 3.1 8B BF16, modelled. Decode ms at batch 1/8/32/64/128/256:
/// 11.87/12.65/15.63/17.91/24.91/43.99 (fit within 5.6 %); first token ms at 256/1,024/4,096/8,192:
/// 22.56/64.73/258.7/557.0 (within 1.1 %). 2.04 TB/s gives 64.3 ns a KV token.
pub const A100_8B: Profile = Profile {
    name: "a100-8b",
    description: "one A100 80 GB, Llama 3.1 8B BF16",
    costs: StepCosts {
        floor: 11.082e-3,
        per_sequence: 0.0531e-3,
        per_kv_token: 64.3e-9,
        prefill_base: 8.726e-3,
        per_prefill_token: 53.45e-6,
        per_prefill_pair: 1.685e-9,
    },
    kv_tokens: 410_000,
    max_num_seqs: 256,
    token_budget: 2048,
};

/// L40S 48 GB, Llama 3.1 8B BF16, modelled. Decode ms at batch 1/8/32/64/128/256:
/// 21.98/23.47/31.55/38.47/53.66/79.12 (fit within 4.5 %); first token ms at 256/1,024/4,096/8,192:
/// 30.10/70.33/311.3/699.8 (within 5.3 %). 864 GB/s gives 151.7 ns a KV token.
pub const L40S_8B: Profile = Profile {
    name: "l40s-8b",
    description: "one L40S 48 GB, Llama 3.1 8B BF16",
    costs: StepCosts {
        floor: 22.637e-3,
        per_sequence: 0.0790e-3,
        per_kv_token: 151.7e-9,
        prefill_base: 16.59e-3,
        per_prefill_token: 50.43e-6,
        per_prefill_pair: 4.281e-9,
    },
    kv_tokens: 190_000,
    max_num_seqs: 256,
    token_budget: 2048,
};

/// Eight H100 in a tensor-parallel group, Llama 3.1 70B BF16, modelled. Decode ms at batch 1/32/128/256:
/// 10.12/11.05/14.60/20.07 (fit within 1.6 %); first token ms at 1,024/4,096: 46.24/169.6 (a line through both).
/// 8 × 3.35 TB/s gives 12.2 ns a KV token.
pub const H100X8_70B: Profile = Profile {
    name: "h100x8-70b",
    description: "eight H100 80 GB, Llama 3.1 70B BF16",
    costs: StepCosts {
        floor: 9.925e-3,
        per_sequence: 0.0258e-3,
        per_kv_token: 12.2e-9,
        prefill_base: 5.12e-3,
        per_prefill_token: 40.16e-6,
        per_prefill_pair: 0.0,
    },
    kv_tokens: 1_280_000,
    max_num_seqs: 1024,
    token_budget: 8192,
};

/// Two H100 in a tensor-parallel group, Llama 3.1 70B FP8, measured with vLLM. Fitted to the time per output token
/// of twelve closed loops (1,024/1,024, 8,192/1,024 and 1,024/8,192 tokens, 4 to 64 clients) with the share that
/// prefills of the other clients take from each decode; all within 2.7 %. Its KV cache is full at 24 sequences of
/// 8,192 + 1,024 tokens: measured time to first token 1.28, 6.52 and 59.2 s at 16, 32 and 64 clients; the model has
/// the same cliff at 0.62, 14.8 and 71 s, with 42 ms per output token beyond it where 52 were measured.
pub const H100X2_70B_FP8: Profile = Profile {
    name: "h100x2-70b-fp8",
    description: "two H100 80 GB, Llama 3.1 70B FP8",
    costs: StepCosts {
        floor: 16.55e-3,
        per_sequence: 0.0585e-3,
        per_kv_token: 55.0e-9,
        prefill_base: 0.0,
        per_prefill_token: 71.98e-6,
        per_prefill_pair: 0.0,
    },
    kv_tokens: 213_000,
    max_num_seqs: 1024,
    token_budget: 8192,
};

#[cfg(test)]
mod tests {
    use super::{PROFILES, Profile};

    #[test]
    fn every_profile_is_found_by_its_name() {
        for profile in &PROFILES {
            assert_eq!(Profile::named(profile.name), Ok(profile));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let error = Profile::named("h1000").unwrap_err().to_string();
        assert!(error.contains("\"h1000\"") && error.contains("l40s-8b"), "{error}");
    }
}
