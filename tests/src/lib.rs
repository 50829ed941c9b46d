//! The test bed of Guidevane: everything that plays the part of the world around the balancer.

pub mod bed;
pub mod bench;
pub mod benchmark;
pub mod daemon;
pub mod fleet;
pub mod llama;
pub mod load;
pub mod loads;
pub mod model;
pub mod nvml;
pub mod packet;
pub mod reaction;
pub mod sim;
pub mod storm;
pub mod upkeep;
