//! Guidevane as a service: its units, and what the service manager hears.

mod notices;
mod privileges;
mod units;
