//! A VIP's Maglev table, as `table` reports it.

use serde::{Deserialize, Serialize};

/// Which backends a VIP's Maglev table leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableShares {
    /// Name of the VIP.
    pub vip: String,
    /// Slots of the table; 0 while no backend can take a flow.
    pub slots: u32,
    /// Slots that led elsewhere before the table's last change; `None` where that is not known: it has not changed
    /// since the daemon started, or its size has.
    pub moved: Option<u32>,
    /// The VIP's backends in the configuration's order.
    pub backends: Vec<BackendSlots>,
}

/// A backend's part of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSlots {
    /// Name of the backend.
    pub backend: String,
    /// Slots that lead to it; 0 for one that cannot take flows.
    pub slots: u32,
}
